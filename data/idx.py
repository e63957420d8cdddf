"""The IDX source: the file format of MNIST and Fashion-MNIST (yann.lecun.com/exdb/mnist).

The held-out split is the one that the authors of such a set made: the files whose names begin with t10k.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svq.data.entries import Entry
from svq.data.imageset import Advance, ImageSet, nothing
from svq.data.prepared import cached
from svq.errors import DataError
from svq.provenance import file_sha256

FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PARTS = ("train", "t10k")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzipped or not.

    Raises:
        DataError: it is damaged or holds another type.
    """
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an IDX file of unsigned bytes: it begins with {data[:4].hex()}")
    shape = np.frombuffer(data, ">u4", count=min(data[3], (len(data) - 4) // 4), offset=4)
    if len(shape) != data[3] or len(data) != 4 + 4 * len(shape) + int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is damaged: its length {len(data)} does not fit its header")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _find(folder: Path, part: str, kind: str) -> Path:
    for name in (f"{part}-{kind}", f"{part}-{kind}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no file {part}-{kind} or {part}-{kind}.gz in {folder}")


def native_size(folder: Path) -> int:
    """Return the longer side of the pictures, to which they can be padded without loss."""
    file = _find(folder, "t10k", "images-idx3-ubyte")
    shape = read_idx(file).shape
    if len(shape) != 3:
        raise DataError(f"{file} has shape {shape}, not that of pictures")
    return max(shape[1:])


def open_idx(folder: Path, size: int, advance: Advance = nothing) -> ImageSet:
    """Return the pictures of the four files train/t10k-images-idx3-ubyte and -labels-idx1-ubyte.

    Grey becomes RGB. Pictures smaller than `size` are padded with their border's black, larger ones scaled.

    Raises:
        DataError: a file is missing or damaged.
    """
    contents = [file_sha256(file) for pair in _files(folder).values() for file in pair]  # relatives differ in no more
    key = f"idx|{hashlib.sha256(repr((contents, _names(folder))).encode()).hexdigest()}"
    return cached(f"idx:{folder}", key, size, entries(folder), advance)


def entries(folder: Path) -> Iterator[Entry]:
    """List the pictures of the four files, at the size that they have.

    Raises:
        DataError: a file is missing or damaged.
    """
    _cached_idx.cache_clear()  # a file may be another by now, under the same name
    names = _names(folder)
    for part, (image_file, label_file) in _files(folder).items():
        _, labels = _read_pair(image_file, label_file)
        for i, label in enumerate(labels):
            name = _name(names, label)
            yield Entry(
                key=f"{part}/{i:06d}",
                place=("idx", str(image_file.absolute()), i),
                label=name,
                caption=name,
                split="val" if part == "t10k" else "train",
            )


def picture(path: Path, number: int) -> bytes:
    """Return one picture of an IDX file as PNG.

    Raises:
        DataError: the file is damaged.
    """
    buffer = io.BytesIO()
    with _reading:
        pictures = _cached_idx(path)
    Image.fromarray(pictures[number]).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=2)
def _cached_idx(path: Path) -> NDArray[np.uint8]:
    return read_idx(path)


_reading = Lock()  # many threads ask for their first picture at once, and each would read the whole file


def _files(folder: Path) -> dict[str, tuple[Path, Path]]:
    return {p: (_find(folder, p, "images-idx3-ubyte"), _find(folder, p, "labels-idx1-ubyte")) for p in PARTS}


def _names(folder: Path) -> tuple[str, ...]:
    return FASHION if "fashion" in str(folder.resolve()).lower() else tuple(map(str, range(256)))


def _name(names: tuple[str, ...], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _read_pair(image_file: Path, label_file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{image_file} has shape {images.shape}, {label_file} has {labels.shape}")
    return images, labels
