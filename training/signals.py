"""Asked to stop: a first signal lets the run save and leave, a later one ends it at once."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STDOUT, STDERR = 1, 2
ECHO_S = 2.0  # so long, the same wish may come twice: to each process, and again from the one that started them


class StopRequest:
    """Listens for SIGTERM, SIGINT and SIGHUP while a run is on; a context manager.

    After the first signal, `asked` is true. Another one, two seconds later or more, acts as it would have without us.
    SIGHUP says that the terminal is gone; under nohup, which has it ignored, it stays so.
    """

    def __init__(self) -> None:
        self.asked = False
        self._heard = 0.0  # when the first one came
        self._before: dict[signal.Signals, Any] = {}
        self._terminals = [f for f in (STDOUT, STDERR) if os.isatty(f)]  # of one that is gone, this says no

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            listened = [s for s in STOPPING if not (s is signal.SIGHUP and ignored)]
            self._before = {s: signal.signal(s, self._hear) for s in listened}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._fall_silent()
        if not self.asked:
            self.asked, self._heard = True, time.monotonic()
        elif time.monotonic() - self._heard >= ECHO_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _fall_silent(self) -> None:
        # To write to a terminal that is gone is an error, which would end the run before it has saved.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for terminal in self._terminals:
            os.dup2(nowhere, terminal)
        os.close(nowhere)
