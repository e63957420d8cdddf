"""Files that appear whole or not at all, and that others may read, too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a place to write a file at, which takes that of `path` at the end of the block if nothing failed.

    Its name ends like that of `path`, for those who go by it. It is on the disk before it can be seen as `path`.
    What is no file, as ``/dev/stdout``, is written to as it is.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # of a link, what it points to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{os.getpid()}.{path.name}")  # its own, should two write at once
    try:
        yield work
        with open(work, "rb") as file:
            os.fsync(file.fileno())
        work.rename(path)
    finally:
        work.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with new_file(path) as work:
        work.write_text(text, encoding="utf-8")


def open_to_others(path: Path) -> None:
    """Give a file the permissions of any new file of this user; safetensors makes its files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
