"""Packing that was stopped: whatever moment it was at, the same command goes on, and makes the same set."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

from svq.data.entries import Entry
from svq.data.folder import picture_files
from svq.data.imageset import Advance
from svq.data.packing import PackSettings, pack
from svq.data.sources import list_pictures
from svq.data.verify import verify_packed
from svq.errors import DataError
from tests.data.test_packing import contents, listed


def stop_after(count: int) -> Callable[[int], AbstractContextManager[Advance]]:
    """Progress that interrupts when so many pictures are done."""

    @contextmanager
    def progress(total: int) -> Iterator[Advance]:
        done = 0

        def advance(count_now: int) -> None:
            nonlocal done
            done += count_now
            if done >= count:
                raise KeyboardInterrupt

        yield advance

    return progress


@pytest.mark.parametrize("writer", ["svq", "mxnet"])
def test_an_interrupted_packing_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    settings = PackSettings(shard_size=10, writer=writer)
    whole = pack(listed(folder), tmp_path / "1" / "a.rec", "x", settings)
    monkeypatch.setattr("svq.data.packing.CHUNK", 3)
    monkeypatch.setattr("svq.data.packing.JOURNAL_EVERY", 7)
    out = tmp_path / "2" / "a.rec"
    for count in (1, 20, 45):
        with pytest.raises(KeyboardInterrupt):
            pack(listed(folder), out, "x", settings, progress=stop_after(count))
        assert not out.with_suffix(".json").exists()
    assert contents(pack(listed(folder), out, "x", settings)) == contents(whole)


def test_what_was_done_is_not_done_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svq.data.packing.JOURNAL_EVERY", 8)
    with pytest.raises(KeyboardInterrupt):
        pack(listed(folder), tmp_path / "a.rec", "x", progress=stop_after(33))
    journal = json.loads((tmp_path / "a.packing" / "journal.json").read_text())
    assert journal["done"] == 32
    # The last journal was written before the last chunk; whatever the files hold beyond it is cut off.
    with open(tmp_path / "a.packing" / "a-train-00000.rec", "ab") as file:
        file.write(b"half a record")
    begun: list[int] = []

    @contextmanager
    def progress(total: int) -> Iterator[Advance]:
        yield begun.append

    packed = pack(listed(folder), tmp_path / "a.rec", "x", progress=progress)
    assert begun == [32, 16, 16]
    assert verify_packed(packed).problems == ()
    assert packed.count("all") == 64
    assert not (tmp_path / "a.packing").exists()


def test_a_killed_packing_goes_on_and_leaves_no_process_behind(folder: Path, tmp_path: Path) -> None:
    rows = [f"{file},{i}\n" for i in range(100) for file in picture_files(folder)]
    (tmp_path / "list.csv").write_text("".join(rows))
    code = (
        "from pathlib import Path; from svq.data import packing; from svq.data.lists import entries\n"
        "packing.JOURNAL_EVERY = 100\n"
        "if __name__ == '__main__': packing.pack(entries(Path('list.csv')), Path('a.rec'), 'x', workers=2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, start_new_session=True)
    journal = tmp_path / "a.packing" / "journal.json"
    wait_until(journal.exists)
    process.kill()
    process.wait()
    wait_until(lambda: not alive(process.pid))
    assert 0 < json.loads(journal.read_text())["done"] < len(rows)
    listing = tmp_path / "list.csv"
    killed = pack(list_pictures(str(listing)), tmp_path / "a.rec", "x")
    assert verify_packed(killed).problems == ()
    assert killed.fingerprint == pack(list_pictures(str(listing)), tmp_path / "b.rec", "x").fingerprint


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(session: int) -> bool:
    """Say whether a session has a process that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, found = stat.read_text().rpartition(")")[2].split()[:4]
            if int(found) == session and state != "Z":
                return True
    return False


def interrupt_renaming(monkeypatch: pytest.MonkeyPatch, number: int, when: str) -> None:
    """Interrupt before or after the file of this number is renamed."""
    numbers, rename = itertools.count(), Path.rename

    def interrupting(path: Path, target: Path) -> None:
        now = next(numbers) == number
        if now and when == "before":
            raise KeyboardInterrupt
        rename(path, target)
        if now:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupting)


@pytest.mark.parametrize("writer", ["svq", "mxnet"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_packing_that_is_interrupted_at_any_renaming_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Literal["svq", "mxnet"], when: str
) -> None:
    settings = PackSettings(shard_size=30, writer=writer)
    pictures = [*listed(folder), Entry("gone", ("nowhere", "gone"))]
    whole = pack(pictures, tmp_path / "whole" / "a.rec", "x", settings, max_broken="1")
    for number in itertools.count():
        out = tmp_path / f"{number}" / "a.rec"
        interrupt_renaming(monkeypatch, number, when)
        try:
            pack(pictures, out, "x", settings, max_broken="1")
        except KeyboardInterrupt:
            monkeypatch.undo()
            again = pack(pictures, out, "x", settings, max_broken="1")
            assert again.fingerprint == whole.fingerprint
            assert contents(again) == contents(whole)
        else:
            break
    assert number > len(contents(whole)), "not every file was renamed"


@pytest.mark.parametrize("writer", ["svq", "mxnet"])
def test_a_packing_that_was_being_moved_is_not_taken_for_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Literal["svq", "mxnet"]
) -> None:
    settings = PackSettings(writer=writer)
    interrupt_renaming(monkeypatch, 3, "after")
    with pytest.raises(KeyboardInterrupt):
        pack(listed(folder), tmp_path / "a.rec", "x", settings)
    monkeypatch.undo()
    assert (tmp_path / "a-train-00000.rec").exists()
    with pytest.raises(DataError, match=r"a\.packing holds a packing that was begun otherwise.*give the same options"):
        pack(listed(folder), tmp_path / "a.rec", "x", settings.model_copy(update={"seed": 1}))
    assert pack(listed(folder), tmp_path / "a.rec", "x", settings).count("all") == 64


def test_a_packing_of_broken_pictures_alone_binds_nobody(folder: Path, tmp_path: Path) -> None:
    astray = [Entry(str(i), ("file", f"nowhere/{i}.png")) for i in range(3)]
    said = r"all of the first 3 pictures are broken .*a\.packing.skipped\.jsonl.*--max-broken.*--root"
    with pytest.raises(DataError, match=said):
        pack(astray, tmp_path / "a.rec", "x")
    assert json.loads((tmp_path / "a.packing" / "skipped.jsonl").read_text().splitlines()[0])["key"]
    assert pack(listed(folder), tmp_path / "a.rec", "y").count("all") == 64


def test_a_packing_begun_otherwise_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svq.data.packing.JOURNAL_EVERY", 8)
    with pytest.raises(KeyboardInterrupt):
        pack(listed(folder), tmp_path / "a.rec", "x", progress=stop_after(33))
    with pytest.raises(DataError, match=r"begun otherwise \(encode keep, now png\); give the same options"):
        pack(listed(folder), tmp_path / "a.rec", "x", PackSettings(encode="png"))
    with pytest.raises(DataError, match="begun when the source listed other pictures; bring those back"):
        pack(list(listed(folder))[1:], tmp_path / "a.rec", "x")
