"""The loader that needs nothing but torch: memory-mapped records in any order, decoded by threads.

What is special: its state is one number. Each epoch is a permutation made from the seed and the epoch's number,
and the crops and flips of a batch are drawn from the seed and the batch's position, so that nothing else has to
be remembered. Ranks take turns in one order; an epoch may end inside a batch, and no picture is repeated or left
out.
"""

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from svq.data.colour import is_foreign, to_rgb
from svq.data.encoding import JPEG, MAX_PIXELS, decode, find_scan, look
from svq.data.loaders import ASPECT, Augmentation, Batch, LoaderSettings, check_identity, identity, to_batch
from svq.data.packed import PackedSet
from svq.errors import DataError

AHEAD = 2  # batches that are decoded before they are asked for
CHUNK = 16  # pictures that a thread decodes at a time
ORDER, CHANCES = range(2)  # what random numbers are for: drawn apart
# What may say that a picture lies on its side, Exif and XMP, and that its colours are others than sRGB's.
TURNING, COLOURING = (b"Exif\0\0", b"tiff:Orientation"), b"ICC_PROFILE\0"
Box = tuple[int, int, int, int]  # top, left, height, width
TRIES = 10  # random rectangles, until one lies within the picture


class TorchLoader:
    """See `svq.data.loaders.Loader`.

    Args:
        packed: a verified set.
        settings: what the batches depend on.
        device: where the pictures are wanted.
        workers: threads; decoding and scaling do not hold Python's lock.
    """

    def __init__(self, packed: PackedSet, settings: LoaderSettings, device: torch.device, workers: int) -> None:
        self.packed, self.settings, self.device = packed, settings, device
        self._records = [shard.open() for shard in packed.shards(settings.split)]
        lengths = [len(records) for records in self._records]
        self._ends = np.cumsum(lengths)
        self._begins = self._ends - lengths
        # Each thread works for itself; more threads of torch's own in each of them would stand in their way.
        self._pool = ThreadPoolExecutor(workers, "loader", torch.set_num_threads, (1,))
        self._thread = threading.local()
        self._ahead: deque[_Coming] = deque()
        self._seen = 0  # pictures that all ranks together were given

    def __next__(self) -> Batch:
        step = self.settings.batch_size * self.settings.world_size
        while len(self._ahead) <= AHEAD:
            self._ahead.append(self._begin(self._seen + step * len(self._ahead)))
        images, labels = self._ahead[0].wait()  # a batch that fails once fails again: none is left out
        self._ahead.popleft()
        self._seen += step
        return to_batch(self.packed, images.to(self.device, non_blocking=True), labels)

    def state_dict(self) -> dict[str, Any]:
        return {"identity": identity("torch", self.packed, self.settings), "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_identity(state, identity("torch", self.packed, self.settings))
        self._ahead.clear()
        self._seen = int(state["seen"])

    def close(self) -> None:
        self._ahead.clear()
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, seen: int) -> "_Coming":
        """Let the threads decode this rank's batch behind `seen` pictures."""
        settings = self.settings
        start = seen + settings.rank * settings.batch_size
        numbers = _order(int(self._ends[-1]), settings.seed, start, settings.batch_size)
        shape = (settings.batch_size, settings.image_size, settings.image_size, 3)
        images = _empty(shape, pinned=self.device.type == "cuda")
        # For all ranks, so that a picture is cropped alike however many there are.
        everyone = settings.batch_size * settings.world_size
        chances = np.random.default_rng((settings.seed, CHANCES, seen)).random((everyone, 4 * TRIES + 1))
        chances = chances[start - seen :][: settings.batch_size]
        chunks = [slice(i, i + CHUNK) for i in range(0, settings.batch_size, CHUNK)]
        futures = [self._pool.submit(self._decode, numbers[c], chances[c], images[c]) for c in chunks]
        return _Coming(images.permute(0, 3, 1, 2), futures)

    def _decode(self, numbers: NDArray[np.int64], chances: NDArray[np.float64], out: Tensor) -> list[tuple[float, ...]]:
        """Decode some pictures into `out` (N, S, S, 3) and return the labels of their records."""
        labels, augmentation = [], self.settings.augmentation
        shards = np.searchsorted(self._ends, numbers, "right")
        places = numbers - self._begins[shards]
        for shard, place, chance, image in zip(shards.tolist(), places.tolist(), chances, out, strict=True):
            records = self._records[shard]
            record = records[place]
            try:
                pixels = self._pixels(record.data)  # (h, w, 3)
            except DataError as error:
                raise DataError(
                    f"{records.rec}: the picture with id {record.id}: {error}; "
                    f"'svq data verify {self.packed.path}' names all such, pack the set anew without them"
                ) from error
            box = _box(len(pixels), len(pixels[0]), augmentation, chance)
            image.copy_(_square(pixels, box, self.settings.image_size, augmentation.flip and chance[-1] < 0.5))
            labels.append(record.labels)
        return labels

    def _pixels(self, data: bytes) -> NDArray[np.uint8]:
        """Decode a picture, upright, into (h, w, 3) RGB, which the thread's next call overwrites.

        libjpeg-turbo decodes what is a plain JPEG, into memory that is used again and again, for new memory can
        cost a third of the time. Pillow decodes all else; the pixels are the same.

        Raises:
            DataError: it is damaged, of an unknown format, or too large.
        """
        scan = find_scan(data) if data.startswith(JPEG) else -1
        upright = all(data.find(word, 0, scan) < 0 for word in TURNING)
        if scan >= 0 and upright and (data.find(COLOURING, 0, scan) < 0 or not is_foreign(look(data))):
            try:
                height, width, *_ = simplejpeg.decode_jpeg_header(data)
                if height * width <= MAX_PIXELS:
                    buffer = getattr(self._thread, "buffer", None)
                    if buffer is None or len(buffer) < 3 * height * width:
                        buffer = self._thread.buffer = bytearray(3 * height * width)
                    return simplejpeg.decode_jpeg(data, buffer=buffer)
            except ValueError:  # damaged, or of a kind such as CMYK
                pass
        return np.array(to_rgb(decode(data)))


class _Coming:
    """A batch on its way: the pictures (B, 3, S, S), and the threads' promises of its labels."""

    def __init__(self, images: Tensor, chunks: "list[Future[list[tuple[float, ...]]]]") -> None:
        self.images, self.chunks = images, chunks

    def wait(self) -> tuple[Tensor, NDArray[np.float32]]:
        """Return the pictures, and the labels (B, width), when they are there."""
        labels = [label for chunk in self.chunks for label in chunk.result()]
        if len({len(label) for label in labels}) > 1:
            raise DataError("the records of this set have different numbers of labels; pack it anew")
        return self.images, np.array(labels, np.float32)


def _empty(shape: tuple[int, ...], pinned: bool) -> Tensor:
    """Return uint8 memory, from which a CUDA device can copy by itself if it is pinned."""
    if pinned:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    return torch.from_numpy(np.empty(shape, np.uint8))  # NumPy asks for large pages, which the system gives sooner


def _order(size: int, seed: int, start: int, count: int) -> NDArray[np.int64]:
    """Return which pictures stand at positions `start` to `start + count` of the endless order."""
    wanted = np.arange(start, start + count)
    return np.concatenate(
        [
            _permutation(size, seed, int(epoch))[wanted[wanted // size == epoch] % size]
            for epoch in np.unique(wanted // size)
        ]
    )


@lru_cache(maxsize=4)  # this epoch and the next, of two loaders
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(size)


def _square(pixels: NDArray[np.uint8], box: Box, size: int, mirrored: bool) -> Tensor:
    """Crop a picture (h, w, 3) and scale it to (size, size, 3)."""
    top, left, height, width = box
    crop = torch.from_numpy(pixels[top : top + height, left : left + width])
    crop = crop.flip(1) if mirrored else crop
    if (height, width) == (size, size):
        return crop
    # In this layout, without gaps, it is scaled twice as fast as in any other, and comes out the same.
    channels_first = crop.contiguous()[None].permute(0, 3, 1, 2)  # (1, 3, height, width)
    scaled = interpolate(channels_first, (size, size), mode="bicubic", antialias=True)
    return scaled[0].permute(1, 2, 0)


def _box(height: int, width: int, augmentation: Augmentation, chance: NDArray[np.float64]) -> Box:
    """Return the part of a picture that is shown."""
    if augmentation.crop == "random":
        low, high = np.log(ASPECT)
        area, aspect, down, right = chance[:-1].reshape(4, TRIES)
        areas = height * width * (augmentation.smallest_area + (1 - augmentation.smallest_area) * area)
        aspects = np.exp(low + (high - low) * aspect)
        heights, widths = np.rint(np.sqrt(areas / aspects)).astype(int), np.rint(np.sqrt(areas * aspects)).astype(int)
        fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
        if fits.any():
            i = int(fits.argmax())
            h, w = int(heights[i]), int(widths[i])
            return int(down[i] * (height - h + 1)), int(right[i] * (width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
