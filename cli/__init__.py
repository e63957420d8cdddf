"""The command line: thin commands over the library, which is imported inside them so that `--help` is quick."""

from svq.cli.app import main

__all__ = ["main"]
