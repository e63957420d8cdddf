"""Files appear whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svq.files import new_file, write_text


def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "below" / "result.json"
    write_text(path, "first")

    def fail() -> None:
        with new_file(path) as work:
            work.write_text("half of the sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_nobody_sees_a_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with new_file(path) as work:
        assert work.suffix == ".json"
        work.write_text("part")
        assert not path.exists()
    assert path.read_text() == "part"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "result.json", tmp_path / "elsewhere" / "kept.json"
    target.write_text("first")
    link.symlink_to(target)
    write_text(link, "second")
    assert link.is_symlink()
    assert target.read_text() == "second"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen([sys.executable, "-c", f"print(open({str(pipe)!r}).read())"], stdout=subprocess.PIPE)
    write_text(pipe, "through")
    assert reader.communicate(timeout=60)[0] == b"through\n"
    assert pipe.is_fifo()
