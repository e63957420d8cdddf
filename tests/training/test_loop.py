"""The loop: exact resume, the order of examples, the averaged weights, refusals."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svq.data import ImageSet
from svq.data.imageset import to_float
from svq.errors import CheckpointError, TrainingError
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import (
    KMeansConfig,
    QuantizerConfig,
    SimVQConfig,
    TokenizerConfig,
    TokenizerTrainConfig,
    VQConfig,
)
from svq.tokenizer.task import TokenizerTask
from svq.training.checkpoint import read_tensors
from svq.training.config import OptimizerConfig, TrainConfig
from svq.training.log import RunLog, read_log
from svq.training.loop import Losses, average_weights, due, order, train

TRAIN = TokenizerTrainConfig(
    images=96,
    batch_size=8,
    continuous_share=0.4,
    ramp_share=0.2,
    evaluate_every=40,
    save_every=8,
    optimizer=OptimizerConfig(name="muon"),
)


def run(config: TokenizerConfig, settings: TokenizerTrainConfig, pictures: ImageSet, out: Path) -> dict[str, float]:
    with RunLog("test", out, settings.images) as log:
        return train(TokenizerTask(config, settings, pictures), settings, out, log)


def final(out: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoint."""
    folder = max((out / "checkpoints").iterdir())
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.name}:{name}": t for f in files for name, t in read_tensors(f).items()}


@pytest.mark.parametrize("quantizer", [None, VQConfig(codebook_size=16)], ids=["fsq", "vq"])
@pytest.mark.parametrize("stopped_at", [16, 40, 56])  # continuous, during the ramp, quantized
def test_a_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(
    config: TokenizerConfig,
    pictures: ImageSet,
    tmp_path: Path,
    quantizer: QuantizerConfig | None,
    stopped_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if quantizer is not None:
        config = config.model_copy(update={"quantizer": quantizer})
    metrics = run(config, TRAIN, pictures, tmp_path / "whole")

    def stop_at(self: RunLog, seen: int, *_: Any) -> None:
        if seen > stopped_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(config, TRAIN, pictures, tmp_path / "parts")
    torch.manual_seed(123)  # whatever happened in between
    assert run(config, TRAIN, pictures, tmp_path / "parts") == metrics
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_a_finished_run_is_left_as_it_is(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    metrics = run(config, TRAIN, pictures, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")}
    assert run(config, TRAIN, pictures, tmp_path) == metrics
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")} == before


def test_other_settings_are_refused_with_the_difference(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    run(config, TRAIN, pictures, tmp_path)
    with pytest.raises(CheckpointError, match=r"train\.batch_size: 8 -> 16"):
        run(config, TRAIN.model_copy(update={"batch_size": 16}), pictures, tmp_path)


def test_a_damaged_checkpoint_is_refused(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    run(config, TRAIN, pictures, tmp_path)
    weights = max((tmp_path / "checkpoints").iterdir()) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has changed"):
        run(config, TRAIN, pictures, tmp_path)


def test_a_run_leaves_its_log_curve_and_pictures(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    run(config, TRAIN, pictures, tmp_path)
    records = read_log(tmp_path)
    assert [r["images"] for r in records if "evaluation" in r] == [40, 80, 96]
    assert records[-1]["evaluation"].keys() == {"psnr_1", "psnr_4", "psnr_8"}
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {f"{n:09d}.png" for n in (40, 80, 96)}
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    shutil.rmtree(tmp_path)


def test_what_a_crash_left_in_the_log_is_forgotten(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    run(config, TRAIN, pictures, tmp_path)
    whole = read_log(tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"images": 104, "loss": 1.0}\n{"images": 112, "lo')
    run(config, TRAIN, pictures, tmp_path)
    assert read_log(tmp_path) == whole


def test_a_finished_run_without_its_log_is_measured_again(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    metrics = run(config, TRAIN, pictures, tmp_path)
    (tmp_path / "log.jsonl").unlink()
    assert run(config, TRAIN, pictures, tmp_path) == pytest.approx(metrics)


def test_weights_that_became_nan_are_never_saved(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    class Doomed(TokenizerTask):
        def losses(self, batch: tuple[Tensor, ...], progress: float) -> Losses:
            losses = super().losses(batch, progress)
            return losses._replace(total=losses.total * float("nan")) if progress > 0.5 else losses

    with RunLog("test", tmp_path, TRAIN.images) as log, pytest.raises(TrainingError, match="infinite or NaN"):
        train(Doomed(config, TRAIN, pictures), TRAIN, tmp_path, log)
    for name, tensor in final(tmp_path).items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (SimVQConfig(codebook_size=16), {"reconstruction": "l1"}),
        (KMeansConfig(codebook_size=16), {"continuous_share": 1.0}),
        (VQConfig(codebook_size=16), {"continuous_share": 0.0, "ramp_share": 0.0, "truncated_share": 0.0}),
    ],
    ids=["simvq", "kmeans", "vq at once"],
)
@pytest.mark.parametrize("normalize", ["position", "none"])
def test_every_quantizer_and_schedule_trains(
    config: TokenizerConfig,
    pictures: ImageSet,
    tmp_path: Path,
    kind: QuantizerConfig,
    changes: dict[str, Any],
    normalize: str,
) -> None:
    config = config.model_copy(update={"quantizer": kind, "normalize": normalize})
    metrics = run(config, TRAIN.model_copy(update=changes), pictures, tmp_path)
    tokenizer = StyledTokenizer.from_pretrained(tmp_path)
    codes = tokenizer.encode(to_float(pictures.batch(pictures.indices("val"))))
    assert len(codes.unique()) >= 2
    assert metrics["psnr_8"] > 5


def test_each_epoch_shows_every_example_once_in_a_new_order() -> None:
    config = TrainConfig(batch_size=4)
    seen = torch.cat([order(10, config, start) for start in range(0, 40, 4)])
    epochs = seen.view(4, 10)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_the_seed_decides_the_order() -> None:
    assert order(100, TrainConfig(seed=0), 0).tolist() != order(100, TrainConfig(seed=1), 0).tolist()


def test_averaged_weights_forget_by_half_in_a_half_life() -> None:
    model, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    config = TrainConfig(batch_size=10, ema_share=0.1)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(average.weight, 0.0)
    for _ in range(10):  # 100 images: the half-life of 1,000 images so far
        average_weights(average, model, config, 1000)
    assert average.weight.item() == pytest.approx(0.5)


def test_buffers_are_copied_and_not_averaged() -> None:
    model, average = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    model.running_mean.fill_(8.0)
    average_weights(average, model, TrainConfig(), 1000)
    assert average.running_mean.item() == 8.0


def test_due_when_a_multiple_lies_in_the_last_batch() -> None:
    assert [seen for seen in range(8, 41, 8) if due(seen, 20, 8)] == [24, 40]
