"""What a run may find in its folder, and what it goes on from when its settings were changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from torch import nn

from svq.data import ImageSet
from svq.errors import CheckpointError, TrainingError, UserError
from svq.locking import lock
from svq.tokenizer.config import KMeansConfig, TokenizerConfig, TokenizerTrainConfig
from svq.tokenizer.task import TokenizerTask
from svq.training.checkpoint import find, newest, read_tensors
from svq.training.config import OptimizerConfig
from svq.training.device import start_engine
from svq.training.micro import settle_micro_batch
from svq.training.runs import train_run

TRAIN = TokenizerTrainConfig(
    images=48, batch_size=8, evaluate_every=24, save_every=24, optimizer=OptimizerConfig(name="muon")
)


def run(config: TokenizerConfig, pictures: ImageSet, out: Path, *, accept: bool = False, **changes: Any) -> None:
    settings = TRAIN.model_copy(update=changes)
    train_run("test", lambda: TokenizerTask(config, settings, pictures), settings, out, accept)


def is_sound(out: Path) -> bool:
    return all(t.isfinite().all() for t in read_tensors(find(out) / "model.safetensors").values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"optimizer": OptimizerConfig(name="adamw")}),
        ({"optimizer": OptimizerConfig(name="adamw")}, {}),
        ({"critic_weight": 0.1, "critic_width": 4}, {}),
        ({}, {"critic_weight": 0.1, "critic_width": 4, "critic_start": 0.0}),
    ],
    ids=["muon-adamw", "adamw-muon", "critic-none", "none-critic"],
)
def test_an_optimizer_of_other_parameters_begins_anew(
    config: TokenizerConfig,
    pictures: ImageSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    run(config, pictures, tmp_path, **before)
    capsys.readouterr()
    run(config, pictures, tmp_path, accept=True, images=96, **after)
    assert "the optimizer begins anew" in capsys.readouterr().err
    assert find(tmp_path).name == f"{96:012d}"
    assert is_sound(tmp_path)
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-2])["skipped_steps"] == 0


def test_pictures_from_latents_are_not_compared_with_those_from_codes(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    class Falling(TokenizerTask):
        def evaluate(self, model: nn.Module) -> dict[str, float]:
            return super().evaluate(model) | {"psnr_8": 30.0 if not self.model.quantizer.started else 20.0}

    latents_only = config.model_copy(update={"quantizer": KMeansConfig(codebook_size=2, iterations=2)})
    settings = TRAIN.model_copy(update={"continuous_share": 1})
    train_run("test", lambda: Falling(latents_only, settings, pictures), settings, tmp_path)
    assert (tmp_path / "best").resolve().name == f"{48:012d}"  # the only one with codes


def test_a_copied_run_whose_links_became_folders_goes_on(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    run(config, pictures, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # follows links
    assert not (tmp_path / "b" / "best").is_symlink()
    run(config, pictures, tmp_path / "b", accept=True, images=96)
    assert (tmp_path / "b" / "best").is_symlink()
    assert find(tmp_path / "b").name == f"{96:012d}"


@pytest.mark.parametrize("content", ["my notes\n", "my notes", '{"step": 1, "loss": 2}\n', "[1]\n"])
def test_a_log_of_others_is_kept(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, content: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(TrainingError, match=r"line 1, is not of a run's log; give another --out"):
        run(config, pictures, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == content


def test_no_run_begins_in_a_model(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    TokenizerTask(config, TRAIN, pictures).model.save_pretrained(tmp_path / "model")
    before = sorted((tmp_path / "model").rglob("*"))
    with pytest.raises(CheckpointError, match="holds a model or a checkpoint, not a run"):
        run(config, pictures, tmp_path / "model")
    assert sorted((tmp_path / "model").rglob("*")) == before


def test_the_found_micro_batch_is_that_of_the_newest_sound_checkpoint(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    run(config, pictures, tmp_path, micro_batch=4)
    newest_one = newest(tmp_path)
    assert newest_one is not None
    (newest_one / "state" / "run.json").write_text("{")
    settings = TRAIN.model_copy(update={"micro_batch": "auto"})
    task = TokenizerTask(config, settings, pictures)
    assert settle_micro_batch(task, settings, start_engine(settings), tmp_path).micro_batch == 4


def test_two_runs_never_share_a_folder(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    run(config, pictures, tmp_path)
    before = (tmp_path / "log.jsonl").read_text()
    with open(tmp_path / ".lock", "a") as file:
        lock(file, UserError())
        with pytest.raises(CheckpointError, match="another run is at work in"):
            run(config, pictures, tmp_path, accept=True, images=96)
    assert (tmp_path / "log.jsonl").read_text() == before
    run(config, pictures, tmp_path, accept=True, images=96)
    assert find(tmp_path).name == f"{96:012d}"


def test_a_finished_run_is_not_taken_for_one_on_other_data(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    run(config, pictures, tmp_path)
    others = replace(pictures, fingerprint="others")
    with pytest.raises(CheckpointError, match=r"is finished, and would learn nothing of what has changed \(data: "):
        run(config, others, tmp_path, accept=True)
    run(config, others, tmp_path, accept=True, images=96)
    assert find(tmp_path).name == f"{96:012d}"


def test_what_a_tracker_prints_is_no_result(
    config: TokenizerConfig,
    pictures: ImageSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Accelerator, "init_trackers", lambda *_: print("initialized"))
    run(config, pictures, tmp_path, trackers=("tensorboard",))
    said = capsys.readouterr()
    assert said.out == ""
    assert "initialized" in said.err
