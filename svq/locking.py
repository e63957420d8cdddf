"""One process at a time at work on a file or folder."""

import fcntl
from typing import IO, Any

from svq.errors import UserError


def lock(file: IO[Any], taken: UserError) -> None:
    """Hold an open file against other processes until it is closed; raise `taken` if another one holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise taken from error
    except OSError:
        pass  # a file system without locks
