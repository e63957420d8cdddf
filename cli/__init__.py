"""The command line: thin commands over the library, which is imported inside them so that `--help` is quick."""

import os
import signal
import sys


def main() -> None:
    """Run the program `svq`. Told to end, it removes what it has half written; Ctrl-C is quiet while it loads, too."""
    if "RANK" not in os.environ:  # one of several may be waiting for the others, where only the signal itself ends it
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup asks
                signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    try:
        from svq.cli.memory import bound_memory

        bound_memory()
        from svq.cli.app import main as program

        program()
    except KeyboardInterrupt:
        sys.exit(130)
