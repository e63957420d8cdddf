"""A packed set as a source: its entries, to be packed anew, and its pictures at one size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from svq.data.encoding import decode
from svq.data.entries import Entry, Place, in_validation
from svq.data.imageset import Advance, ImageSet, Split, fit, nothing, sorted_classes
from svq.data.labels import END, Labels, clip_tokenizer, split_labels
from svq.data.packed import PackedSet, open_index
from svq.data.prepared import cached
from svq.data.recordio import ImageRecord, RecordFile
from svq.data.verify import ensure_verified
from svq.errors import DataError


def entries(packed: PackedSet) -> Iterator[tuple[int, Entry]]:
    """List the records of a verified set, each with its key; those of one with an index know their split."""
    for split in ("train", "val"):
        for shard in packed.splits[split]:
            records = shard.open()
            places = (("record", str(shard.rec), offset) for offset in records.offsets.tolist())
            listed: Iterator[Entry]
            if shard.texts:
                listed = (
                    Entry(t.key, place, t.label, t.caption, t.synthetic, split)
                    for t, place in zip(shard.read_texts(), places, strict=True)
                )
            else:
                listed = _from_elsewhere(records, places, packed)
            yield from zip(records.keys.tolist(), listed, strict=True)


def _from_elsewhere(records: RecordFile, places: Iterator[Place], packed: PackedSet) -> Iterator[Entry]:
    """List records without texts: a class is its number, and captions are read back from their ids."""
    for i, place in enumerate(places):
        labels = _labels(records[i], packed)
        raw, synthetic = (("" if ids is None else _text(ids[0].tolist())) for ids in (labels.raw, labels.synthetic))
        yield Entry(f"record {i}", place, _class(labels), raw, synthetic)


def _labels(record: ImageRecord, packed: PackedSet) -> Labels:
    return split_labels(packed.layout, np.nan_to_num(np.array([record.labels or (-1.0,)]), nan=-1.0))


def _class(labels: Labels) -> str | None:
    """Return the class of one record, which is known by its number."""
    number = -1 if labels.classes is None else int(labels.classes[0])
    return str(number) if number >= 0 else None


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


def sample_packed(path: Path, size: int, split: Split, most: int, advance: Advance = nothing) -> ImageSet:
    """Return at most `most` pictures of a packed set at `size` pixels, the same each time, held in memory.

    For a set of which only some are wanted: nothing of the rest is kept. Captions are left out.

    Raises:
        DataError: it is missing or damaged, or none of its pictures in the split can be read.
    """
    packed = ensure_verified(open_index(path))
    keys: list[str] = []
    labels: list[str | None] = []
    validation: list[bool] = []
    skipped: list[str] = []
    images = np.empty((min(most, packed.count("all")), 3, size, size), np.uint8)
    for key, record, held_out in _at_random(packed, split):
        try:
            images[len(keys)] = fit(decode(record.data), size)
        except DataError as error:
            skipped.append(f"{key}: {error}")
            continue
        keys.append(key)
        labels.append(_class(_labels(record, packed)))
        validation.append(held_out)
        advance(1)
        if len(keys) == len(images):
            break
    if not keys:
        raise DataError(f"no readable picture in split '{split}' of {path}")
    numbers = sorted_classes({label for label in labels if label is not None})
    return ImageSet(
        name=str(path),
        images=images[: len(keys)],
        labels=np.array([-1 if label is None else numbers.index(label) for label in labels], dtype=np.int64),
        classes=tuple(packed.classes[int(number)] if packed.classes else number for number in numbers),
        captions=("",) * len(keys),
        keys=tuple(keys),
        validation=np.array(validation),
        skipped=tuple(skipped),
        fingerprint=packed.fingerprint,
    )


def _at_random(packed: PackedSet, split: Split) -> Iterator[tuple[str, ImageRecord, bool]]:
    """Yield the records of a split in random order, the same each time: key, record, whether it is held out."""
    shards = packed.shards("all" if packed.index is None else split)
    ends = np.cumsum([shard.count for shard in shards])
    opened: dict[int, RecordFile] = {}
    for place in np.random.default_rng(0).permutation(ends[-1] if len(ends) else 0):
        number = int(np.searchsorted(ends, place, "right"))
        shard = shards[number]
        records = opened[number] = opened.get(number) or shard.open()
        i = int(place - (ends[number] - shard.count))
        record = records[i]
        held_out = shard in packed.splits["val"] if packed.index else in_validation(record.data)  # as `entries` has it
        if split == "all" or held_out == (split == "val"):
            yield f"{shard.rec.name}, record {i}", record, held_out


def open_packed(path: Path, size: int, advance: Advance = nothing) -> ImageSet:
    """Return the pictures of a packed set at `size` pixels, in the order of the source that it was packed from.

    Raises:
        DataError: it is missing or damaged.
    """
    packed = ensure_verified(open_index(path))
    key = f"packed|{packed.fingerprint}"
    if packed.index is None:  # its fingerprint does not cover all of its content
        key += "".join(f"|{shard.rec.stat().st_mtime_ns}" for shard in packed.shards("all"))
    return cached(str(path), key, size, _in_order(packed), advance, packed.count("all"))


def _in_order(packed: PackedSet) -> Iterator[Entry]:
    """List the records in the order of their source, when the first one is asked for."""
    yield from (entry for _, entry in sorted(entries(packed), key=lambda pair: pair[0]))
