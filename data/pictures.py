"""Pictures as training sees them, whether they are all at hand or read from a packed set as they are needed."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from svq.data.imageset import Split

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from svq.data.loaders import Augmentation, Kind, Loader
    from svq.data.packed import PackedSet


class Pictures(Protocol):
    """What training needs to know of a set; `svq.data.imageset.ImageSet` is one.

    Attributes:
        name: the source as the user wrote it.
        fingerprint: SHA-256 of the content.
        image_size: side of the pictures in pixels.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def image_size(self) -> int: ...

    def count(self, split: Split) -> int:
        """Return the number of a split's pictures."""

    def some(self, split: Split, most: int) -> "Tensor":
        """Return at most `most` pictures of a split, uint8 (N, 3, S, S), the same each time."""


@dataclass(frozen=True)
class PackedPictures:
    """A packed set that is read as it is needed: no more than a few batches are held.

    Attributes:
        packed: the set.
        image_size: side of the pictures in pixels.
        kind: which loader.
    """

    packed: "PackedSet"
    image_size: int
    kind: "Kind" = "auto"

    @property
    def name(self) -> str:
        """The index, as the user named it."""
        return str(self.packed.path)

    @property
    def fingerprint(self) -> str:
        """The set's."""
        return self.packed.fingerprint

    def count(self, split: Split) -> int:
        """Return the number of a split's pictures."""
        return self.packed.count(split)

    def some(self, split: Split, most: int) -> "Tensor":
        """Return at most `most` pictures of a split, uint8 (N, 3, S, S), the same each time."""
        import torch

        from svq.data.loaders import LoaderSettings, open_loader

        settings = LoaderSettings(self.image_size, min(most, self.count(split)), split)
        loader = open_loader("torch", self.packed, settings, torch.device("cpu"))
        try:
            return next(loader).images
        finally:
            loader.close()

    def open(
        self,
        batch_size: int,
        seed: int,
        rank: int,
        processes: int,
        device: "torch.device",
        augmentation: "Augmentation",
    ) -> "Loader":
        """Open what gives process `rank` of `processes` its batches of `batch_size` training pictures."""
        from svq.data.loaders import LoaderSettings, open_loader

        settings = LoaderSettings(self.image_size, batch_size, "train", seed, rank, processes, augmentation)
        workers = max(len(os.sched_getaffinity(0)) // processes, 1)
        return open_loader(self.kind, self.packed, settings, device, workers)
