"""The cache of prepared sets: read once, whole or not at all."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svq.data.entries import Entry
from svq.data.prepared import cached
from svq.errors import DataError


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Entry]:
    """Five pictures in files, and a cache of their own."""
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path / "cache"))
    for i in range(5):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    return [
        Entry(str(i), ("file", str(tmp_path / f"{i}.png")), "ab"[i % 2], f"number {i}", split="train") for i in range(5)
    ]


def test_a_set_is_read_once_and_then_found_in_the_cache(entries: list[Entry], tmp_path: Path) -> None:
    first = cached("test", "key", 4, entries)
    again = cached("test", "key", 4, iter(()))
    assert again.fingerprint == first.fingerprint
    assert again.captions == ("number 0", "number 1", "number 2", "number 3", "number 4")
    assert again.batch(np.array([3, 1])).tolist() == [[[[v] * 4] * 4] * 3 for v in (3, 1)]


def test_an_interruption_leaves_nothing_half_written(entries: list[Entry], tmp_path: Path) -> None:
    def interrupted() -> Iterator[Entry]:
        yield from entries[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("test", "key", 4, interrupted())
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []
    assert len(cached("test", "key", 4, entries)) == 5


def test_what_is_left_of_a_set_without_its_index_is_replaced(entries: list[Entry], tmp_path: Path) -> None:
    cached("test", "key", 4, entries)
    (index,) = tmp_path.rglob("index.json")
    index.unlink()
    assert len(cached("test", "key", 4, entries)) == 5


def test_the_slower_of_two_builders_takes_what_the_quicker_one_made(entries: list[Entry], tmp_path: Path) -> None:

    def slow() -> Iterator[Entry]:
        yield from entries
        cached("test", "key", 4, entries)  # meanwhile, elsewhere

    assert len(cached("test", "key", 4, slow())) == 5
    assert len(list((tmp_path / "cache" / "datasets").iterdir())) == 1


def test_a_set_that_is_in_the_cache_is_not_listed_again(entries: list[Entry]) -> None:
    def listed() -> Iterator[Entry]:
        pytest.fail("listed again")
        yield

    cached("test", "key", 4, entries)
    assert len(cached("test", "key", 4, listed())) == 5


def test_the_fingerprint_does_not_depend_on_how_a_library_words_its_errors(
    entries: list[Entry], tmp_path: Path
) -> None:

    def with_problem(text: str) -> Iterator[Entry]:
        yield from entries
        yield Entry("bad", ("nowhere", text))

    a, b = cached("test", "a", 4, with_problem("at 0x1")), cached("test", "b", 4, with_problem("at 0x2"))
    assert a.fingerprint == b.fingerprint != cached("test", "c", 4, entries).fingerprint
    assert a.skipped == ("bad: at 0x1",)


@pytest.mark.parametrize("name", ["images.u8", "index.json"])
def test_a_damaged_cache_is_named(entries: list[Entry], tmp_path: Path, name: str) -> None:
    cached("test", "key", 4, entries)
    (file,) = tmp_path.rglob(name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged; delete that folder"):
        cached("test", "key", 4, entries)


def test_what_a_killed_preparation_left_is_removed_a_day_later(entries: list[Entry], tmp_path: Path) -> None:
    for name, hours in (("old", 30), ("at work", 1)):
        folder = tmp_path / "cache" / "datasets" / f".building-{name}"
        folder.mkdir(parents=True)
        (folder / "images.u8").write_bytes(b"half")
        then = time.time() - hours * 3600
        os.utime(folder / "images.u8", (then, then))
        os.utime(folder, (then, then))
    cached("test", "key", 4, entries)
    assert [p.name for p in (tmp_path / "cache" / "datasets").glob(".*")] == [".building-at work"]


def test_a_set_that_has_no_room_is_not_begun(entries: list[Entry], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test at 4096 px takes 4687500\.0 GiB in .*; make room, let SVQ_CACHE name"):
        cached("test", "key", 4096, entries, count=10**8)
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, entries: list[Entry], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"kept in .*file/datasets, where nothing can be written .*let SVQ_CACHE name"):
        cached("test", "key", 4, entries)
