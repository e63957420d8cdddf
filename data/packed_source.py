"""A packed set as a source: its entries, to be packed anew, and its pictures at one size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from svq.data.encoding import decode
from svq.data.entries import Entry, items
from svq.data.imageset import Advance, ImageSet, cached, nothing
from svq.data.labels import END, clip_tokenizer, split_labels
from svq.data.packed import PackedSet, Shard, open_index
from svq.data.recordio import ImageRecord
from svq.data.verify import ensure_verified
from svq.errors import DataError


def entries(packed: PackedSet) -> Iterator[tuple[int, Entry]]:
    """List the records of a verified set, each with its key; those of one with an index know their split."""
    for split in ("train", "val"):
        for shard in packed.splits[split]:
            keys = shard.open().keys.tolist()
            listed = (
                (
                    Entry(t.key, ("record", str(shard.rec), str(shard.idx), i), t.label, t.caption, t.synthetic, split)
                    for i, t in enumerate(shard.read_texts())
                )
                if shard.texts
                else _from_elsewhere(shard, packed)
            )
            yield from zip(keys, listed, strict=True)


def _from_elsewhere(shard: Shard, packed: PackedSet) -> Iterator[Entry]:
    """List records without texts: a class is its number, and captions are read back from their ids."""
    records = shard.open()
    for i in range(len(records)):
        label, raw, synthetic = _meaning(records[i], packed)
        yield Entry(f"record {i}", ("record", str(shard.rec), str(shard.idx), i), label, raw, synthetic)


def _meaning(record: ImageRecord, packed: PackedSet) -> tuple[str | None, str, str]:
    labels = split_labels(packed.layout, np.nan_to_num(np.array([record.labels or (-1.0,)]), nan=-1.0))
    number = -1 if labels.classes is None else int(labels.classes[0])
    raw, synthetic = (("" if ids is None else _text(ids[0].tolist())) for ids in (labels.raw, labels.synthetic))
    return str(number) if number >= 0 else None, raw, synthetic


def _text(ids: list[int]) -> str:
    """Return the text of a caption's ids, which stands between those of start and end."""
    end = ids.index(END) if END in ids else 0
    return str(clip_tokenizer().decode(ids[1:end])).strip()


def native_size(path: Path) -> int:
    """Return the shorter side of the first picture.

    Raises:
        DataError: the set is missing or damaged.
    """
    packed = open_index(path)
    for shard in packed.shards("all"):
        return min(decode(shard.open()[0].data).size)
    raise DataError(f"{path} holds no picture")


def open_packed(path: Path, size: int, advance: Advance = nothing) -> ImageSet:
    """Return the pictures of a packed set at `size` pixels, in the order of the source that it was packed from.

    Raises:
        DataError: it is missing or damaged.
    """
    packed = ensure_verified(open_index(path))
    ordered = (entry for _, entry in sorted(entries(packed), key=lambda pair: pair[0]))
    return cached(str(path), f"packed|{packed.fingerprint}", size, items(ordered), advance, packed.count("all"))
