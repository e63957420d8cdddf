"""The IDX source, on files made here."""

import gzip
import os
import struct
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from svq.data import idx, open_images
from svq.data.idx import read_idx
from svq.data.packing import pack
from svq.data.sources import list_pictures
from svq.data.stream import stream
from svq.errors import DataError


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">I{values.ndim}I", 0x0800 | values.ndim, *values.shape)
    data = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, n, ending in (("train", 20, ".gz"), ("t10k", 6, "")):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{ending}", rng.integers(0, 256, (n, 28, 28)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{ending}", np.arange(n) % 10)
    return tmp_path


def test_small_pictures_are_padded_and_the_authors_split_is_kept(mnist: Path) -> None:
    images = open_images(f"idx:{mnist}", 32)
    assert images.images.shape == (26, 3, 32, 32)
    assert images.validation.sum() == 6
    assert images.classes == tuple("0123456789")
    original = read_idx(mnist / "train-images-idx3-ubyte.gz")
    assert (images.images[0, :, 2:30, 2:30] == original[0]).all()
    assert not images.images[:, :, :2].any()


@pytest.mark.parametrize("size", [16, 28, 31, 32])
def test_streamed_they_are_the_pictures_of_the_prepared_set(mnist: Path, size: int) -> None:
    (batch,) = stream(list_pictures(f"idx:{mnist}", size), size, batch_size=100)
    streamed = np.stack([one.pixels for one in batch if one.pixels is not None])
    np.testing.assert_array_equal(streamed, open_images(f"idx:{mnist}", size).images)


def test_threads_read_a_file_once(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Mock(side_effect=lambda path: (time.sleep(0.05), read_idx(path))[1])
    listed = list(list_pictures(f"idx:{mnist}", 28))
    monkeypatch.setattr(idx, "read_idx", read)
    list(stream(listed, 28, batch_size=100, workers=8))
    assert sorted(Path(call.args[0]).name for call in read.call_args_list) == [
        "t10k-images-idx3-ubyte",
        "train-images-idx3-ubyte.gz",
    ]


def test_sets_that_differ_in_content_alone_are_not_confused(mnist: Path) -> None:
    before = open_images(f"idx:{mnist}", 28)
    file = mnist / "t10k-images-idx3-ubyte"
    stat = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_images(f"idx:{mnist}", 28).fingerprint != before.fingerprint


def test_fashion_gets_its_names(mnist: Path, tmp_path: Path) -> None:
    fashion = tmp_path / "fashion"
    fashion.mkdir()
    for file in mnist.glob("*idx*"):
        (fashion / file.name).write_bytes(file.read_bytes())
    assert "sneaker" in open_images(f"idx:{fashion}", 28).classes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "does not fit its header"),
        (b"\0\0\x08\x03\0\0", "does not fit its header"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "does not fit its header"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "f")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file train-images-idx3-ubyte"):
        open_images(f"idx:{tmp_path}", 32)


def test_packed_it_is_the_same_set(mnist: Path, tmp_path: Path) -> None:
    images = open_images(f"idx:{mnist}", 28)
    packed = pack(list_pictures(f"idx:{mnist}"), tmp_path / "a.rec", "mnist")
    assert (packed.count("train"), packed.count("val"), packed.classes) == (20, 6, images.classes)
    assert open_images(str(packed.path), 28).fingerprint == images.fingerprint
