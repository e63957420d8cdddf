"""What a data set holds, in numbers: pictures, classes, captions, sizes.

What is special: of a packed set only the texts and the headers of some pictures are read, and no picture is
decoded but those on a contact sheet.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svq.data.encoding import FORMATS, decode
from svq.data.imageset import ImageSet, fit
from svq.data.packed import PackedSet
from svq.data.packed_source import entries
from svq.data.recordio import ImageRecord
from svq.errors import DataError

SAMPLE = 1000  # pictures of which the size is looked at


class Words:
    """Counts captions and their words."""

    def __init__(self) -> None:
        self.captions = self.words = self.most = 0

    def add(self, caption: str) -> None:
        """Take a caption into account; an empty one is none."""
        if caption:
            words = len(caption.split())
            self.captions, self.words, self.most = self.captions + 1, self.words + words, max(self.most, words)

    def result(self) -> dict[str, float]:
        """Return the numbers of captions, and of words of the mean and of the longest one."""
        return {"count": self.captions, "words": round(self.words / max(self.captions, 1), 2), "most_words": self.most}


class Sizes(NamedTuple):
    """Sizes of some pictures: the shorter sides in pixels, and how many there are of each format."""

    shorter: list[int]
    formats: Counter[str]


def describe_images(images: ImageSet) -> dict[str, Any]:
    """Return what a prepared set holds."""
    numbers, captions = Counter(images.labels.tolist()), Words()
    for caption in images.captions:
        captions.add(caption)
    return {
        "source": images.name,
        "count": len(images),
        "train": len(images.indices("train")),
        "validation": len(images.indices("val")),
        "classes": {name: numbers[i] for i, name in enumerate(images.classes)},
        "captions": captions.result(),
        "image_size": images.image_size,
        "skipped": images.skipped,
        "fingerprint": images.fingerprint,
    }


def describe_packed(packed: PackedSet) -> dict[str, Any]:
    """Return what a verified packed set holds.

    Raises:
        DataError: its texts are damaged.
    """
    labels: Counter[str] = Counter(dict.fromkeys(packed.classes, 0))
    raw, synthetic = Words(), Words()
    for _, entry in entries(packed):
        if entry.label is not None:
            labels[entry.label] += 1
        raw.add(entry.caption)
        synthetic.add(entry.synthetic)
    sizes = _sizes(packed)
    return {
        "source": str(packed.path),
        "count": packed.count("all"),
        "train": packed.count("train"),
        "validation": packed.count("val"),
        "classes": dict(labels),
        "captions": raw.result(),
        "synthetic_captions": synthetic.result(),
        "layout": packed.layout,
        "shards": len(packed.shards("all")),
        "bytes": packed.bytes,
        "shorter_side": np.percentile(sizes.shorter, (0, 50, 100)).tolist() if sizes.shorter else [],
        "formats": dict(sizes.formats),
        "settings": packed.index.settings if packed.index else {},
        "skipped": tuple(_skipped(packed)),
        "fingerprint": packed.fingerprint,
    }


def contact_sheet(packed: PackedSet, count: int, size: int) -> Tensor:
    """Return some pictures of a packed set as uint8 (B, 3, size, size)."""
    pictures = []
    for record in _spread(packed, count):
        try:
            pictures.append(torch.from_numpy(fit(decode(record.data), size).copy()))
        except DataError:
            continue
    if not pictures:
        raise DataError(f"no readable picture in {packed.path}")
    return torch.stack(pictures)  # (B, 3, size, size)


def _spread(packed: PackedSet, most: int) -> Iterator[ImageRecord]:
    """Yield at most so many records, evenly spread over the shards."""
    total = packed.count("all")
    wanted = np.unique(np.linspace(0, total - 1, min(most, total), dtype=np.int64))
    begin = 0
    for shard in packed.shards("all"):
        here = wanted[(wanted >= begin) & (wanted < begin + shard.count)] - begin
        begin += shard.count
        if len(here):
            records = shard.open()
            yield from (records[int(i)] for i in here)


def _sizes(packed: PackedSet) -> Sizes:
    sizes = Sizes([], Counter())
    for record in _spread(packed, SAMPLE):
        try:
            with Image.open(io.BytesIO(record.data), formats=FORMATS) as image:
                sizes.shorter.append(min(image.size))
                sizes.formats[str(image.format)] += 1
        except (OSError, Image.DecompressionBombError):
            continue
    return sizes


def _skipped(packed: PackedSet) -> Iterator[str]:
    file = packed.path.with_name(f"{packed.path.stem}.skipped.jsonl")
    if packed.index and file.is_file():
        for line in file.read_text().splitlines():
            skipped = json.loads(line)
            yield f"{skipped['key']}: {skipped['problem']}"
