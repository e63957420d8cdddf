"""The pictures of a source, listed without reading them: where each lies, and what is known of it.

What is special: an entry is a few words, so that millions of them can be written down, shuffled, and handed
to other processes, which load the pictures.
"""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from svq.data.encoding import MAX_BYTES
from svq.data.recordio import RecordMap
from svq.errors import DataError

VALIDATION_SHARE = 0.1

Place = tuple[str | int, ...]  # the kind of place, and where in it; see `load`


class Entry(NamedTuple):
    """One picture of a source."""

    key: str
    place: Place
    label: str | None = None
    caption: str = ""
    synthetic: str = ""
    split: Literal["train", "val"] | None = None  # None: its content decides


def load(place: Place) -> bytes:
    """Return the encoded picture at a place.

    Raises:
        DataError: it is too large, or what it lies in is damaged.
        OSError: the file cannot be read.
    """
    kind, *where = place
    return _LOADERS[str(kind)](*where)


def readable(name: str) -> str:
    """Return a name as text, whatever its bytes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def in_validation(content: bytes) -> bool:
    """Say whether content belongs to the validation split: a tenth of all contents, by their SHA-256."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") < VALIDATION_SHARE * 2**64


def split_of(entry: Entry, content: bytes) -> Literal["train", "val"]:
    """Return the split that an entry with this content belongs to."""
    return entry.split or ("val" if in_validation(content) else "train")


def _load_file(path: str) -> bytes:
    # The size comes first: a huge file is not even read.
    if (size := os.stat(path).st_size) > MAX_BYTES:
        raise DataError(f"{size} bytes, more than the {MAX_BYTES} allowed")
    with open(path, "rb") as file:
        return file.read()


def _load_record(rec: str, offset: int) -> bytes:
    return _opened(rec).image_at(offset).data


@lru_cache(maxsize=256)  # each holds a file open
def _opened(rec: str) -> RecordMap:
    return RecordMap(Path(rec))


def _load_emoji(codepoints: str, size: int) -> bytes:
    from svq.data.openmoji import draw

    return draw(codepoints, size)


def _load_idx(path: str, number: int) -> bytes:
    from svq.data.idx import picture

    return picture(Path(path), number)


def _load_nothing(reason: str) -> bytes:
    raise DataError(reason)


_LOADERS: dict[str, Callable[..., Any]] = {
    "file": _load_file,
    "record": _load_record,
    "openmoji": _load_emoji,
    "idx": _load_idx,
    "nowhere": _load_nothing,
}
