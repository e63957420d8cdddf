"""The packed source: shards of image records, and an index that says what they hold.

    NAME.json               the index: schema, layout of the labels, classes, settings, and of each shard the
                            count, and the bytes and SHA-256 of its files
    NAME-train-00000.rec    image records, shuffled; the labels as `svq.data.labels` describes them
    NAME-train-00000.idx    ``key TAB offset`` for each record; the key, also the record's id, is the number of
                            the picture in the source it came from
    NAME-train-00000.jsonl  the texts of each record, one line each: key, class, caption, synthetic
    NAME-val-00000.rec ...  the pictures that are held out

A set is named by its index, ``NAME.json``, or by ``NAME.rec`` for short. A single ``.rec`` from elsewhere,
without an index, can be read too: all its records are to train on, and the number of their labels says what
they mean.

What is special: only `svq.data.verify.ensure_verified` tells whether the files are what the index says; a
reader such as DALI, which dies of a ``.rec`` that is shorter than its ``.idx`` says, must see no others.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svq.data.imageset import Split
from svq.data.labels import Layout, layout_of
from svq.data.recordio import RecordFile, read_offsets, read_records, unpack_image
from svq.errors import DataError
from svq.provenance import file_sha256

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Model):
    """One file of a shard."""

    name: Annotated[str, Field(pattern=r"^[^/\\]+$")]  # it lies beside the index
    bytes: Count
    sha256: Sha256


class ShardEntry(_Model):
    """One shard: its records, their offsets, and their texts."""

    rec: FileEntry
    idx: FileEntry
    texts: FileEntry
    count: Count


class Index(_Model):
    """The content of ``NAME.json``."""

    format: Literal["svq packed images 2"] = "svq packed images 2"
    source: str  # as the user named it
    settings: dict[str, Any]  # what was asked for when packing
    layout: Layout
    classes: tuple[str, ...]
    skipped: Count  # pictures of the source that could not be read
    splits: dict[Literal["train", "val"], tuple[ShardEntry, ...]]


class Texts(NamedTuple):
    """What is known of one record in words."""

    key: str
    label: str | None
    caption: str
    synthetic: str


@dataclass(frozen=True)
class Shard:
    """A pair of files that hold records, and the one that holds their texts.

    Attributes:
        rec: the records.
        idx: their offsets.
        count: number of records.
        texts: their texts; None for a file from elsewhere.
        entry: what the index says of the files; None for a file from elsewhere.
    """

    rec: Path
    idx: Path
    count: int
    texts: Path | None = None
    entry: ShardEntry | None = None

    def open(self) -> RecordFile:
        """Map the records into memory: ``shard.open()[number]`` is an ImageRecord.

        Raises:
            DataError: a file is missing or damaged.
        """
        return RecordFile(self.rec, self.idx)

    def read_texts(self) -> Iterator[Texts]:
        """Yield the texts of all records, in order.

        Raises:
            DataError: the file is damaged.
        """
        if self.texts is None:
            return
        with open(self.texts, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    content = json.loads(line)
                    yield Texts(content["key"], content["class"], content["caption"], content["synthetic"])
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{self.texts}: line {number} is damaged: {error}") from error


@dataclass(frozen=True)
class PackedSet:
    """A packed set as its index describes it.

    Attributes:
        path: the index, or the ``.rec`` of a set without one.
        layout: what the labels of the records mean.
        classes: names of the classes; empty for a file from elsewhere, whose classes are numbers.
        fingerprint: SHA-256 over content, order and split, but not over the names of files; for a file
            from elsewhere over its size, its offsets and its first record.
        index: the index itself; None for a file from elsewhere.
    """

    path: Path
    layout: Layout
    classes: tuple[str, ...]
    fingerprint: str
    index: Index | None
    splits: dict[Literal["train", "val"], tuple[Shard, ...]]

    @property
    def bytes(self) -> int:
        """Bytes of all records."""
        return sum(shard.rec.stat().st_size for shard in self.shards("all") if shard.rec.exists())

    def count(self, split: Split) -> int:
        """Return the number of a split's records."""
        return sum(shard.count for shard in self.shards(split))

    def shards(self, split: Split) -> tuple[Shard, ...]:
        """Return the shards of a split, in order."""
        return self.splits["train"] + self.splits["val"] if split == "all" else self.splits[split]


def open_index(path: Path) -> PackedSet:
    """Read the index of a packed set; the shards are not looked at, see `svq.data.verify.ensure_verified`.

    Args:
        path: ``NAME.json``, or ``NAME.rec`` for the same, or a single ``.rec`` without an index.

    Raises:
        DataError: there is no such set, or its index is damaged.
    """
    if not path.name:
        raise DataError(f"{path} is a folder; name the index of a packed set, or its .rec")
    file = path.with_suffix(".json")
    if file.is_file():
        return _from_index(file)
    if path.suffix == ".rec" and path.is_file():
        return _from_elsewhere(path)
    raise DataError(f"no packed set {path}: neither {file.name} nor {path.with_suffix('.rec').name} is there")


def read_index(file: Path) -> Index:
    """Read and check an index file.

    Raises:
        DataError: it is damaged or of another kind.
    """
    try:
        return Index.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{file} is not an index of packed images, or is damaged: {place}: {first['msg']}") from error


def _from_index(file: Path) -> PackedSet:
    index = read_index(file)
    splits: dict[Literal["train", "val"], tuple[Shard, ...]] = {"train": (), "val": ()}
    for split, entries in index.splits.items():
        splits[split] = tuple(
            Shard(
                rec=file.with_name(entry.rec.name),
                idx=file.with_name(entry.idx.name),
                texts=file.with_name(entry.texts.name),
                count=entry.count,
                entry=entry,
            )
            for entry in entries
        )
    return PackedSet(file, index.layout, index.classes, fingerprint_of(index), index, splits)


def fingerprint_of(index: Index) -> str:
    """Return the SHA-256 of what an index says of the content: layout, classes, records and texts by split."""
    content = {
        split: [[e.count, e.rec.sha256, e.texts.sha256] for e in entries] for split, entries in index.splits.items()
    }
    parts = [index.layout, index.classes, content]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _from_elsewhere(rec: Path) -> PackedSet:
    idx = rec.with_suffix(".idx")
    first = next(itertools.islice(read_records(rec), 1), None)
    if first is None:
        raise DataError(f"{rec} holds no record")
    if not idx.is_file():
        raise DataError(f"no such file: {idx}; a .rec is read through the offsets that lie beside it")
    parts = (rec.stat().st_size, file_sha256(idx), hashlib.sha256(first[1]).hexdigest())
    shard = Shard(rec, idx, count=len(read_offsets(idx)[0]))
    layout = layout_of(len(unpack_image(first[1]).labels))
    fingerprint = hashlib.sha256(repr(parts).encode()).hexdigest()
    return PackedSet(rec, layout, (), fingerprint, None, {"train": (shard,), "val": ()})
