"""Checkpoints are whole or not there."""

import json
from pathlib import Path

import pytest
import torch

from svq.errors import CheckpointError
from svq.training.checkpoint import find, fingerprint, load_model, newest, publish, save_model, verify


def write(content: str):
    def inner(folder: Path) -> None:
        (folder / "a.txt").write_text(content)

    return inner


def test_what_is_published_is_complete_and_verified(tmp_path: Path) -> None:
    publish(tmp_path / "one", write("hello"))
    verify(tmp_path / "one")
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_failure_while_writing_keeps_what_was_there(tmp_path: Path) -> None:
    publish(tmp_path / "one", write("first"))

    def fail(folder: Path) -> None:
        (folder / "a.txt").write_text("second")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "one", fail)
    verify(tmp_path / "one")
    assert (tmp_path / "one" / "a.txt").read_text() == "first"


def test_publishing_again_replaces(tmp_path: Path) -> None:
    publish(tmp_path / "one", write("first"))
    publish(tmp_path / "one", write("second"))
    assert (tmp_path / "one" / "a.txt").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for text in ("first", "second"):
        publish(tmp_path / "link", write(text))
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "a.txt").read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: (p / "a.txt").write_text("hellO"), "a.txt has changed"),
        (lambda p: (p / "a.txt").unlink(), "a.txt is missing"),
        (lambda p: (p / "manifest.json").unlink(), "is not a checkpoint"),
        (lambda p: (p / "manifest.json").write_text("{"), "is not a checkpoint"),
        (lambda p: (p / "manifest.json").write_text("[]"), "is not a checkpoint"),
    ],
)
def test_damage_is_named(tmp_path: Path, harm, message: str) -> None:
    publish(tmp_path / "one", write("hello"))
    harm(tmp_path / "one")
    with pytest.raises(CheckpointError, match=message):
        verify(tmp_path / "one")


def test_the_newest_checkpoint_of_a_run_is_found(tmp_path: Path) -> None:
    for name in ("000000000100", "000000000020", "000000000003"):
        publish(tmp_path / "checkpoints" / name, write(name))
    (tmp_path / "checkpoints" / ".000000000200.writing").mkdir()  # a crash in the middle of the next one
    newest_one = tmp_path / "checkpoints" / "000000000100"
    assert newest(tmp_path) == newest_one
    assert find(tmp_path) == newest_one
    assert find(newest_one) == newest_one


def test_no_checkpoint_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        find(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_model(tmp_path / "m", torch.nn.Linear(2, 3), {})
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(tmp_path / "m", lambda _: torch.nn.Linear(3, 3))


def test_of_many_weights_that_do_not_fit_the_first_are_named(tmp_path: Path) -> None:
    save_model(tmp_path / "m", torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(9))), {})
    with pytest.raises(CheckpointError) as raised:
        load_model(tmp_path / "m", lambda _: torch.nn.Sequential(*(torch.nn.Linear(2, 3) for _ in range(9))))
    said = str(raised.value)
    assert "size mismatch for 0.weight" in said
    assert "8.bias" not in said
    assert said.endswith("; and 14 more")
    assert "\n" not in said


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = torch.nn.BatchNorm1d(3)
    model(torch.randn(8, 3))
    save_model(tmp_path / "m", model, {"size": 3})
    loaded = load_model(tmp_path / "m", lambda config: torch.nn.BatchNorm1d(config["size"]))
    assert fingerprint(loaded) == fingerprint(model)
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == {"size": 3}


def test_the_fingerprint_sees_one_changed_bit() -> None:
    model = torch.nn.Linear(4, 4)
    before = fingerprint(model)
    model.weight.data.view(torch.int32)[0, 0] ^= 1
    assert fingerprint(model) != before


def test_no_file_and_no_state_of_a_run_is_replaced_by_a_model(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(CheckpointError, match="mine holds other files, which would be lost"):
        save_model(tmp_path / "mine", torch.nn.Linear(2, 2), {})
    assert (tmp_path / "mine").read_text() == "mine"

    def write(folder: Path) -> None:
        (folder / "state").mkdir()
        (folder / "state" / "run.json").write_text("{}")

    publish(tmp_path / "000000000008", write)
    with pytest.raises(CheckpointError, match="holds other files, which would be lost"):
        save_model(tmp_path / "000000000008", torch.nn.Linear(2, 2), {})
    assert (tmp_path / "000000000008" / "state" / "run.json").exists()
