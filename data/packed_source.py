"""A packed set as a source: its entries, to be packed anew, and its pictures at one size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from svq.data.encoding import decode
from svq.data.entries import Entry, items
from svq.data.imageset import Advance, ImageSet, Split, cached, fit, nothing
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


def sample_packed(path: Path, size: int, split: Split, most: int) -> ImageSet:
    """Return at most `most` pictures of a packed set at `size` pixels, the same each time, held in memory.

    For a set of which only some are wanted: nothing of the rest is read or kept, and captions are left out.

    Raises:
        DataError: it is missing or damaged, or has no picture in the split.
    """
    packed = ensure_verified(open_index(path))
    if not packed.count(split):
        raise DataError(f"{path} holds no picture in split '{split}'")
    shards = packed.shards(split)
    ends = np.cumsum([shard.count for shard in shards])
    chosen = np.random.default_rng(0).choice(ends[-1], min(most, ends[-1]), replace=False)
    labels, keys, held_out, pixels = [], [], [], []
    for place in chosen.tolist():
        number = int(np.searchsorted(ends, place, "right"))
        shard, record = shards[number], place - int(ends[number] - shards[number].count)
        found = shard.open()[record]
        label, _, _ = _meaning(found, packed)
        pixels.append(fit(decode(found.data), size))
        labels.append(-1 if label is None else int(label))
        keys.append(f"record {found.id}")
        held_out.append(shard in packed.splits["val"])
    return ImageSet(
        name=str(path),
        images=np.stack(pixels),
        labels=np.array(labels, dtype=np.int64),
        classes=packed.classes or tuple(str(i) for i in range(max(labels) + 1)),
        captions=("",) * len(keys),
        keys=tuple(keys),
        validation=np.array(held_out),
        skipped=(),
        fingerprint=packed.fingerprint,
    )


def open_packed(path: Path, size: int, advance: Advance = nothing) -> ImageSet:
    """Return the pictures of a packed set at `size` pixels, in the order of the source that it was packed from.

    Raises:
        DataError: it is missing or damaged.
    """
    packed = ensure_verified(open_index(path))
    ordered = (entry for _, entry in sorted(entries(packed), key=lambda pair: pair[0]))
    return cached(str(path), f"packed|{packed.fingerprint}", size, items(ordered), advance, packed.count("all"))
