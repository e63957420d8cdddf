"""The pictures of a source, listed without reading them: where each lies, and what is known of it.

What is special: an entry is a few words, so that millions of them can be written down, shuffled, and handed
to other processes, which load the pictures.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from svq.data.encoding import MAX_BYTES, decode
from svq.data.imageset import Item, in_validation
from svq.data.recordio import RecordFile
from svq.errors import DataError

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


def split_of(entry: Entry, content: bytes) -> Literal["train", "val"]:
    """Return the split that an entry with this content belongs to."""
    return entry.split or ("val" if in_validation(content) else "train")


def items(entries: Iterable[Entry]) -> Iterator[Item]:
    """Yield the pictures of entries, decoded; one that cannot be read comes with its problem."""
    for entry in entries:
        try:
            content = load(entry.place)
            image = decode(content)
        except (DataError, OSError) as error:
            yield Item(entry.key, problem=str(error))
            continue
        yield Item(
            key=entry.key,
            image=image,
            label=entry.label,
            caption=entry.caption or entry.synthetic,
            validation=split_of(entry, content) == "val",
        )


def _load_file(path: str) -> bytes:
    # The size comes first: a huge file is not even read.
    if (size := os.stat(path).st_size) > MAX_BYTES:
        raise DataError(f"{size} bytes, more than the {MAX_BYTES} allowed")
    with open(path, "rb") as file:
        return file.read()


def _load_record(rec: str, idx: str, number: int) -> bytes:
    return _open_records(rec, idx)[number].data


@lru_cache(maxsize=64)
def _open_records(rec: str, idx: str) -> RecordFile:
    return RecordFile(Path(rec), Path(idx))


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
