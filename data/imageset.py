"""A data set of pictures of one size, with labels, captions and a split; and how a picture comes to that size."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from svq.data.colour import to_rgb

if TYPE_CHECKING:  # torch takes seconds and hundreds of MB, which processes that only read pictures can spare
    from torch import Tensor

Advance = Callable[[int], None]  # takes the number of pictures done since the last call
Split = Literal["train", "val", "all"]


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


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Crop a picture to its central square and scale it, (3, S, S) uint8; transparency becomes white.

    Fixed for good (Pillow, bicubic with antialiasing), for FID depends on it (Parmar et al. 2021,
    arXiv:2104.11222). The square lies at whole pixels, as the loaders have it: between them, a picture that has its
    size already would be blurred.
    """
    image = to_rgb(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def pad(image: Image.Image, size: int) -> Image.Image:
    """Return a picture with black around it, so that no side has fewer pixels than `size`; a longer one is kept."""
    width, height = (max(0, size - side) for side in image.size)
    return ImageOps.expand(image, (width // 2, height // 2, width - width // 2, height - height // 2))


def nothing(count: int) -> None:
    """Take note of progress that nobody asked for."""
