"""Batches of a packed set, endlessly: what all loaders have in common, and which one is taken.

What is special: a loader can be stopped anywhere and go on exactly there. Its state is a small JSON document
that also says what the batches depend on; a loader that would give others refuses it.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svq.data.imageset import Advance, Split, nothing
from svq.data.labels import split_labels
from svq.data.packed import PackedSet
from svq.data.verify import ensure_verified
from svq.errors import CheckpointError, DataError, UserError

Kind = Literal["auto", "dali", "torch"]


class Batch(NamedTuple):
    """Some pictures with what is known of them.

    Attributes:
        images: (B, 3, S, S) uint8 RGB, on the device; channels last in memory, as decoders give them.
        labels: (B,) int64 numbers of classes, -1 for none, on the CPU.
        captions: (B, 2, 77) int64 CLIP BPE ids of the raw and the synthetic caption, on the CPU; zeros where a
            caption is missing, None where the set's layout holds none.
    """

    images: Tensor
    labels: Tensor
    captions: Tensor | None


class Augmentation(NamedTuple):
    """How a picture becomes a square, scaled with Pillow's bicubic filter and antialiasing.

    Attributes:
        crop: the central square, or a rectangle at random, which is stretched to a square
            (Szegedy et al. 2014, arXiv:1409.4842).
        smallest_area: of a random crop, as a share of the picture.
        flip: mirror every other picture, at random.
    """

    crop: Literal["centre", "random"] = "centre"
    smallest_area: float = 0.25
    flip: bool = False


ASPECT = (3 / 4, 4 / 3)  # of random crops, width to height


class LoaderSettings(NamedTuple):
    """What the batches of a loader depend on, beside the set.

    Attributes:
        image_size: side of the pictures in pixels.
        batch_size: pictures of one batch of one rank.
        split: which pictures.
        seed: of order, crops and flips.
        rank: which of `world_size` loaders this is; each gets pictures of its own.
        world_size: how many loaders there are; all get equally many batches.
        augmentation: crop and flip.
    """

    image_size: int
    batch_size: int
    split: Split = "train"
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    augmentation: Augmentation = Augmentation()


class Loader(Protocol):
    """An endless iterator of batches that can be stopped and gone on with."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on behind the last batch: plain data, small, ready for JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader was.

        Raises:
            CheckpointError: that one gave other batches: another set, seed, batch size, number of ranks, ...
        """

    def close(self) -> None:
        """Stop reading ahead."""


def open_loader(
    kind: Kind,
    packed: PackedSet,
    settings: LoaderSettings,
    device: torch.device,
    workers: int = 2,
    advance: Advance = nothing,
) -> Loader:
    """Open a loader of a packed set, whose files are verified first.

    Args:
        kind: ``dali`` decodes on a CUDA device, if it is given one; ``torch`` needs no other package and reads in
            any order; ``auto`` is ``dali`` if it is installed and the device is CUDA, else ``torch``.
        packed: the set.
        settings: what the batches depend on.
        device: where the pictures are wanted.
        workers: threads that read and decode on the CPU.
        advance: called with the number of bytes verified since the last call.

    Raises:
        DataError: the set is damaged, or the split is empty.
        UserError: DALI is asked for and not installed.
    """
    if kind == "auto":
        kind = "dali" if device.type == "cuda" and _has_dali() else "torch"
    ensure_verified(packed, advance)
    if not packed.count(settings.split):
        raise DataError(f"{packed.path} holds no picture in split '{settings.split}'")
    if kind == "dali":
        try:
            from svq.data.loader_dali import DaliLoader
        except ImportError as error:
            raise UserError(
                "--loader dali needs NVIDIA DALI: pip install 'svq[dali]' (for CUDA 12: pip install "
                "nvidia-dali-cuda120); --loader torch needs nothing else"
            ) from error
        return DaliLoader(packed, settings, device, workers)
    from svq.data.loader_torch import TorchLoader

    return TorchLoader(packed, settings, device, workers)


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even a package nvidia is there
        return False


def identity(kind: str, packed: PackedSet, settings: LoaderSettings) -> dict[str, Any]:
    """Return all that must be the same for a state to be gone on with; the rank is not, where states do not differ."""
    rest = {name: value for name, value in settings._asdict().items() if name not in ("rank", "augmentation")}
    return {"loader": kind, "data": packed.fingerprint, **rest, **settings.augmentation._asdict()}


def check_identity(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse the state of a loader that gave other batches.

    Raises:
        CheckpointError: the message names each difference.
    """
    found = state.get("identity")
    if not isinstance(found, dict):
        raise CheckpointError("this is no state of a loader; expected what its state_dict returned")
    keys = sorted(found.keys() | expected.keys())
    changes = [f"{key}: {found.get(key)} -> {expected.get(key)}" for key in keys if found.get(key) != expected.get(key)]
    if changes:
        raise CheckpointError(
            f"the batches would not go on where they stopped ({'; '.join(changes)}); "
            "give the same data and settings, or begin a new run"
        )


def to_batch(packed: PackedSet, images: Tensor, labels: NDArray[np.float32]) -> Batch:
    """Return pictures (B, 3, S, S) and the labels of their records (B, width) as a batch."""
    classes, raw, synthetic = split_labels(packed.layout, labels)
    numbers = np.full(len(labels), -1) if classes is None else classes
    captions = None
    if raw is not None and synthetic is not None:
        captions = torch.from_numpy(np.stack([raw, synthetic], axis=1))  # (B, 2, 77)
    return Batch(images, torch.from_numpy(numbers), captions)
