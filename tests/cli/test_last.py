"""What a command takes if nothing is named: results of the last runs that belong together."""

import shutil
from pathlib import Path

import pytest

from svq.cli.last import last, last_painter, remember, remembered
from svq.errors import RunStopped, UserError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "runs/b", "runs/g"):
        (tmp_path / name).mkdir(parents=True)


def test_a_generator_keeps_its_own_tokenizer() -> None:
    assert last_painter(None, None) == Path("openmoji-32")
    remember(generator=Path("runs/g"), painter=Path("runs/a"), tokenizer=Path("runs/a"))
    remember(tokenizer=Path("runs/b"))  # another is trained, or writes codes
    assert last("tokenizer", None) == Path("runs/b")
    assert last_painter(None, None) == Path("runs/a")
    assert last_painter(Path("runs/c"), None) == Path("runs/c")
    assert last_painter(None, Path("runs/other")) == Path("runs/b")  # whose tokenizer nobody noted
    remember(painter=Path("openmoji-64"))
    assert last_painter(None, None) == Path("openmoji-64")
    remember(painter=Path("runs/gone"))
    assert last_painter(None, None) == Path("runs/b")


def test_a_stopped_run_is_the_last_one_if_it_has_saved() -> None:
    remember(tokenizer=Path("runs/b"))
    for saved, expected in ((False, "runs/b"), (True, "runs/a")):
        if saved:
            Path("runs/a/checkpoints").mkdir()
        with pytest.raises(RunStopped), remembered(Path("runs/a"), tokenizer=Path("runs/a")):
            raise RunStopped("stopped")
        assert last("tokenizer", None) == Path(expected)
    with pytest.raises(UserError), remembered(Path("runs/b"), tokenizer=Path("runs/b")):
        raise UserError("refused")
    assert last("tokenizer", None) == Path("runs/a")
    with remembered(Path("runs/b"), tokenizer=Path("runs/b")):
        pass
    assert last("tokenizer", None) == Path("runs/b")


def test_a_note_that_cannot_be_written_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs")
    Path("runs").touch()  # so no folder of that name can be made
    Path("elsewhere/checkpoints").mkdir(parents=True)
    with pytest.raises(RunStopped), remembered(Path("elsewhere"), tokenizer=Path("elsewhere")):
        raise RunStopped("stopped")
    assert "note: runs/last.json cannot be written" in capsys.readouterr().err
    with remembered(Path("elsewhere"), tokenizer=Path("elsewhere")):
        pass


def test_codes_are_found_where_they_are_written() -> None:
    Path("runs/codes.safetensors").write_bytes(b"codes")
    assert last("codes", None) == Path("runs/codes.safetensors")
