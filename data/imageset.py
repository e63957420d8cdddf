"""A data set of pictures of one size, cached on disk and mapped into memory.

What is special: whatever the source, it is read once, cropped and scaled once, and written next to an
index of labels, captions and splits. Training then reads bytes, and two runs on the same set see the
same fingerprint. Nothing is published before it is complete: the folder appears by a rename.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from svq.data.colour import to_rgb
from svq.errors import DataError

if TYPE_CHECKING:  # torch takes seconds and hundreds of MB, which processes that only read pictures can spare
    from torch import Tensor

Advance = Callable[[int], None]  # takes the number of pictures done since the last call
Split = Literal["train", "val", "all"]
VALIDATION_SHARE = 0.1
DAY_S = 24 * 60 * 60
INDEX_VERSION = 3  # another one when the same source gives other pictures


class Item(NamedTuple):
    """One picture of a source; `image` is None, and `problem` says why, if it could not be read."""

    key: str
    image: Image.Image | None = None
    label: str | None = None
    caption: str = ""
    validation: bool = False
    problem: str = ""


def in_validation(content: bytes) -> bool:
    """Say whether content belongs to the validation split: a tenth of all contents, by their SHA-256."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") < VALIDATION_SHARE * 2**64


def cache_root() -> Path:
    """Return the folder for prepared data sets: ``$SVQ_CACHE``, or ``svq`` in the user's cache folder."""
    base = os.environ.get("SVQ_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "svq"


@dataclass(frozen=True)
class ImageSet:
    """Pictures with labels, captions and a split.

    Attributes:
        name: the source as the user wrote it.
        images: (N, 3, S, S) uint8, mapped from disk.
        labels: (N,) int64, an index into `classes`, or -1 for none.
        classes: names of the classes, in order.
        captions: N texts, empty where there is none.
        keys: N names that are unique in the source.
        validation: (N,) bool, the pictures that are held out.
        skipped: what could not be read, with the reason.
        fingerprint: SHA-256 over all of the above but the name and the reasons, in hexadecimal.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    validation: NDArray[np.bool_]
    skipped: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return int(self.images.shape[-1])

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Return the positions of a split's pictures, in order."""
        chosen = {"train": ~self.validation, "val": self.validation, "all": np.ones(len(self), bool)}[split]
        return np.flatnonzero(chosen)

    def sample(self, split: Split, most: int) -> NDArray[np.int64]:
        """Return the positions of at most `most` pictures of a split, shuffled, the same each time."""
        return np.random.default_rng(0).permutation(self.indices(split))[:most]

    def count(self, split: Split) -> int:
        """Return the number of a split's pictures."""
        return len(self.indices(split))

    def some(self, split: Split, most: int) -> "Tensor":
        """Return at most `most` pictures of a split, uint8 (N, 3, S, S), shuffled, the same each time."""
        return self.batch(self.sample(split, most))

    def batch(self, indices: NDArray[np.int64]) -> "Tensor":
        """Return pictures as uint8 (B, 3, S, S)."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.images[indices]))


def sorted_classes(classes: Iterable[str]) -> list[str]:
    """Return the names of classes, sorted; numbers, as of a set that knows no names, by their value."""
    names = list(classes)
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)


def to_float(images: "Tensor") -> "Tensor":
    """Map uint8 [0, 255] to float [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: "Tensor") -> "Tensor":
    """Map float [-1, 1] to uint8 [0, 255], rounding and clipping."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).byte()


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Crop a picture to its central square and scale it, (3, S, S) uint8; transparency becomes white.

    Fixed for good (Pillow, bicubic with antialiasing), for FID depends on it (Parmar et al. 2021,
    arXiv:2104.11222).
    """
    image = to_rgb(image)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def nothing(count: int) -> None:
    """Take note of progress that nobody asked for."""


def cached(
    name: str, key: str, size: int, items: Iterator[Item], advance: Advance = nothing, count: int = 0
) -> ImageSet:
    """Return the data set `key` from the cache, or read it from `items` and put it there.

    Args:
        name: the source as the user wrote it, for messages.
        key: what decides the content: source, versions, file listing.
        size: side of the pictures in pixels.
        items: read only if the cache does not hold the set.
        advance: called with the number of pictures read since the last call.
        count: how many there are, where that is known; then room for them is looked for first.

    Raises:
        DataError: there is no readable picture in the source, no room for the set, or nothing may be written there.
    """
    digest = hashlib.sha256(f"{INDEX_VERSION}|{key}|{size}".encode()).hexdigest()[:16]
    folder = cache_root() / "datasets" / f"{digest}-{size}"
    if not (folder / "index.json").exists():
        work = _begin(folder.parent, name, size, count)
        try:
            work.chmod(0o755)  # others may share the cache
            _build(name, size, items, work, advance)
            _publish(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _load(name, folder)


def _begin(root: Path, name: str, size: int, count: int) -> Path:
    """Make a folder to build a set of so many pictures in, if there is room."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_remains(root)
        _check_room(root, name, size, count)
        return Path(tempfile.mkdtemp(prefix=".building-", dir=root))
    except OSError as error:
        raise DataError(
            f"prepared pictures are kept in {root}, where nothing can be written ({error.strerror}); let SVQ_CACHE "
            "name another folder"
        ) from error


def _remove_remains(root: Path) -> None:
    """Remove what preparations left that were killed: none has been written to for a day."""
    for work in root.glob(".building-*"):
        try:
            if time.time() - max(path.stat().st_mtime for path in (work, *work.iterdir())) > DAY_S:
                shutil.rmtree(work, ignore_errors=True)
        except FileNotFoundError:  # another process was quicker
            continue


def _check_room(root: Path, name: str, size: int, count: int) -> None:
    wanted, disk = count * 3 * size**2, shutil.disk_usage(root)
    if disk.total and wanted > disk.free:  # some file systems know nothing of their size
        raise DataError(
            f"{name} at {size} px takes {wanted / 2**30:.1f} GiB in {root}, and {disk.free / 2**30:.1f} are free; make "
            "room, let SVQ_CACHE name a folder with more, or pack the set with 'svq data pack' and stream it"
        )


def _publish(work: Path, folder: Path) -> None:
    """Rename a finished set into its place, unless another process was quicker."""
    try:
        work.rename(folder)
    except OSError:
        if (folder / "index.json").exists():
            return
        shutil.rmtree(folder)  # the remains of a set whose index is gone
        work.rename(folder)


def _build(name: str, size: int, items: Iterator[Item], folder: Path, advance: Advance) -> None:
    kept: list[Item] = []
    skipped: list[Item] = []
    content = hashlib.sha256()
    with open(folder / "images.u8", "wb") as file:
        for item in items:
            advance(1)
            if item.image is None:
                skipped.append(item)
                continue
            pixels = fit(item.image, size).tobytes()
            content.update(pixels)
            file.write(pixels)
            kept.append(item._replace(image=None))
    if not kept:
        reason = f"; {len(skipped)} skipped, the first: {skipped[0].key}: {skipped[0].problem}" if skipped else ""
        raise DataError(f"no readable picture in {name}{reason}")
    classes = sorted_classes({item.label for item in kept if item.label is not None})
    number = {label: i for i, label in enumerate(classes)}
    index = {
        "size": size,
        "classes": classes,
        "labels": [-1 if item.label is None else number[item.label] for item in kept],
        "captions": [item.caption for item in kept],
        "keys": [item.key for item in kept],
        "validation": [item.validation for item in kept],
        "skipped": [item.key for item in skipped],
    }
    content.update(json.dumps(index, sort_keys=True).encode())
    index["fingerprint"] = content.hexdigest()
    # Why a file was skipped is worded by the version of a library; it is no part of the fingerprint.
    index["skipped"] = [f"{item.key}: {item.problem}" for item in skipped]
    (folder / "index.json").write_text(json.dumps(index))


def _load(name: str, folder: Path) -> ImageSet:
    try:
        return _read(name, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the cached data set {folder} is damaged; delete that folder and run again") from error


def _read(name: str, folder: Path) -> ImageSet:
    index = json.loads((folder / "index.json").read_text())
    count, size = len(index["keys"]), index["size"]
    if (folder / "images.u8").stat().st_size != count * 3 * size * size:
        raise ValueError("images.u8 has the wrong size")
    return ImageSet(
        name=name,
        images=np.memmap(folder / "images.u8", np.uint8, "r", shape=(count, 3, size, size)),
        labels=np.array(index["labels"], dtype=np.int64),
        classes=tuple(index["classes"]),
        captions=tuple(index["captions"]),
        keys=tuple(index["keys"]),
        validation=np.array(index["validation"], dtype=bool),
        skipped=tuple(index["skipped"]),
        fingerprint=index["fingerprint"],
    )
