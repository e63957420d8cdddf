"""Cropping, scaling, the cache and the conversions."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svq.data.imageset import ImageSet, Item, cached, fit, in_validation, to_float, to_uint8
from svq.errors import DataError


def test_the_centre_is_kept() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert (fit(Image.fromarray(pixels), 10) == 255).all()


def test_transparency_becomes_white() -> None:
    assert (fit(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 8) == 255).all()
    palette = Image.new("P", (8, 8))
    palette.info["transparency"] = 0
    assert (fit(palette, 8) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "1", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert fit(Image.new(mode, (9, 9)), 4).shape == (3, 4, 4)


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    fitted = fit(Image.fromarray(ramp), 8)
    np.testing.assert_allclose(fitted[0].ravel(), ramp.ravel() / 257, atol=1)


def test_of_sixteen_bits_of_grey_the_clear_shade_alone_becomes_white(tmp_path: Path) -> None:
    grey = np.full((8, 8), 20000, np.uint16)
    grey[0] = 5
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=5)
    fitted = fit(Image.open(tmp_path / "a.png"), 8)
    assert (fitted[:, 0] == 255).all()
    assert (fitted[:, 1:] == 20000 // 257).all()


def test_a_tenth_is_held_out() -> None:
    assert abs(sum(in_validation(str(i).encode()) for i in range(10_000)) - 1000) < 100


def test_bytes_survive_the_way_to_float_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_float(values)
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(to_uint8(floats), values)
    assert torch.equal(to_uint8(torch.tensor([-3.0, 3.0])), torch.tensor([0, 255], dtype=torch.uint8))


def items(fail_at: int | None = None) -> Iterator[Item]:
    for i in range(5):
        if i == fail_at:
            raise KeyboardInterrupt
        yield Item(str(i), Image.new("RGB", (4, 4), (i, i, i)), label="ab"[i % 2], caption=f"number {i}")


def test_a_set_is_read_once_and_then_found_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))
    first = cached("test", "key", 4, items())
    again = cached("test", "key", 4, iter(()))
    assert again.fingerprint == first.fingerprint
    assert again.captions == ("number 0", "number 1", "number 2", "number 3", "number 4")
    assert again.batch(np.array([3, 1])).tolist() == [[[[v] * 4] * 4] * 3 for v in (3, 1)]


def test_an_interruption_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        cached("test", "key", 4, items(fail_at=3))
    assert list((tmp_path / "datasets").iterdir()) == []
    assert len(cached("test", "key", 4, items())) == 5


def test_what_is_left_of_a_set_without_its_index_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))
    cached("test", "key", 4, items())
    (index,) = tmp_path.rglob("index.json")
    index.unlink()
    assert len(cached("test", "key", 4, items())) == 5


def test_the_slower_of_two_builders_takes_what_the_quicker_one_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))

    def slow() -> Iterator[Item]:
        yield from items()
        cached("test", "key", 4, items())  # meanwhile, elsewhere

    assert len(cached("test", "key", 4, slow())) == 5
    assert len(list((tmp_path / "datasets").iterdir())) == 1


def test_the_fingerprint_does_not_depend_on_how_a_library_words_its_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))

    def with_problem(text: str) -> Iterator[Item]:
        yield from items()
        yield Item("bad", problem=text)

    a, b = cached("test", "a", 4, with_problem("at 0x1")), cached("test", "b", 4, with_problem("at 0x2"))
    assert a.fingerprint == b.fingerprint != cached("test", "c", 4, items()).fingerprint
    assert a.skipped == ("bad: at 0x1",)


@pytest.mark.parametrize("name", ["images.u8", "index.json"])
def test_a_damaged_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))
    cached("test", "key", 4, items())
    (file,) = tmp_path.rglob(name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged; delete that folder"):
        cached("test", "key", 4, items())


def test_a_sample_of_a_split_is_the_same_each_time(pictures: ImageSet) -> None:
    assert pictures.sample("train", 10).tolist() == pictures.sample("train", 10).tolist()
    assert set(pictures.sample("train", 10)) <= set(pictures.indices("train"))
    assert sorted(pictures.sample("all", 1000)) == list(range(64))


def test_what_a_killed_preparation_left_is_removed_a_day_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))
    for name, hours in (("old", 30), ("at work", 1)):
        folder = tmp_path / "datasets" / f".building-{name}"
        folder.mkdir(parents=True)
        (folder / "images.u8").write_bytes(b"half")
        then = time.time() - hours * 3600
        os.utime(folder / "images.u8", (then, then))
        os.utime(folder, (then, then))
    cached("test", "key", 4, items())
    assert [p.name for p in (tmp_path / "datasets").glob(".*")] == [".building-at work"]


def test_a_set_that_has_no_room_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"test at 4096 px takes 4687500\.0 GiB in .*; make room, let SVQ_CACHE name"):
        cached("test", "key", 4096, items(), count=10**8)
    assert list((tmp_path / "datasets").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"kept in .*file/datasets, where nothing can be written .*let SVQ_CACHE name"):
        cached("test", "key", 4, items())
