"""The errors a user can cause. The command line prints them as one line and exits with code 2."""

import difflib
from collections.abc import Iterable

SHOWN = 20  # names in a message


class UserError(ValueError):
    """Something the user gave cannot work; the message says what, what was expected, and how to mend it."""


class DataError(UserError):
    """A source of images is missing, empty, damaged or of the wrong kind."""


class CheckpointError(UserError):
    """A checkpoint or a file of codes is missing, damaged, or does not fit the rest."""


class TrainingError(UserError):
    """Training cannot go on as it was asked for."""


class ConfigError(UserError):
    """A configuration has an unknown key or a value out of range."""


class RunStopped(Exception):  # noqa: N818
    """A run was asked to stop and has saved all; the command line exits with 75, "try again" in sysexits.h."""

    EXIT_CODE = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name nearest to ``name``, or a list of them all, or of some."""
    known = sorted(known)
    if match := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean '{match[0]}'?"
    more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
    return f"; known: {', '.join(known[:SHOWN])}{more}"


def few(texts: list[str], most: int = 4) -> str:
    """Return the first of some texts in one line, and how many more there are."""
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return "; ".join([*texts[:most], *more])
