"""A GPU learns, writes and paints what a CPU does. Skipped where there is none: `pytest tests/test_cuda.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svq.data import ImageSet
from svq.evaluation.fid import PictureSet, distance
from svq.generator import Generator
from svq.generator.config import GeneratorConfig
from svq.pixels import to_float, to_uint8
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig, TokenizerTrainConfig
from svq.tokenizer.task import TokenizerTask
from svq.training.config import TrainConfig
from svq.training.device import start_engine
from svq.training.log import read_log
from svq.training.micro import settle_micro_batch
from tests.training.test_processes import RUNNER, assert_equal

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

EXACT = ("train.precision=fp32", "train.tf32=false")
# A GPU orthogonalises in bf16 for Muon, and draws other numbers for dropout.
ADAMW = ("train.optimizer.name=adamw",)
STAGES = {"tokenizer": ADAMW, "generator": ("dropout=0",)}


def run(stage: str, out: Path, folder: Path, *assignments: str, gpu: bool = True, torchrun: bool = False) -> Path:
    """Run a small training as a program, on the GPU or without one, and return its folder."""
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"] if torchrun else []
    done = subprocess.run(
        [sys.executable, *starter, str(RUNNER), stage, str(out), str(folder), *assignments],
        env=os.environ | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    stopped = any(word.startswith("stop_at") for word in assignments)
    assert done.returncode == (75 if stopped else 0), done.stderr[-3000:]
    if not stopped:
        assert report(out)["device"] == ("cuda" if gpu else "cpu")
    return out


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "process0.json").read_text())
    return found


def losses(out: Path) -> list[float]:
    """Return the losses and the norms of the gradient that a run wrote down."""
    return [record[name] for record in read_log(out) if "loss" in record for name in ("loss", "gradient_norm")]


@pytest.mark.parametrize("stage", STAGES)
def test_both_learn_the_same(stage: str, folder: Path, tmp_path: Path) -> None:
    on_cpu = run(stage, tmp_path / "cpu", folder, *STAGES[stage], gpu=False)
    exact = run(stage, tmp_path / "gpu", folder, *STAGES[stage], *EXACT)
    assert losses(exact) == pytest.approx(losses(on_cpu), rel=1e-2)  # a code on an edge can fall either way
    tf32 = run(stage, tmp_path / "tf32", folder, *STAGES[stage], "train.precision=fp32")
    assert losses(tf32) == pytest.approx(losses(on_cpu), rel=2e-2)
    bf16 = run(stage, tmp_path / "bf16", folder, *STAGES[stage])  # what `auto` takes
    assert losses(bf16) == pytest.approx(losses(on_cpu), rel=5e-2)
    assert report(bf16)["precision"] == "bf16"
    assert losses(bf16) != losses(exact)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_bit_for_bit(stage: str, precision: str, folder: Path, tmp_path: Path) -> None:
    options = (f"train.precision={precision}",)  # of FSQ; VQ's codebook is added up in no fixed order
    whole = run(stage, tmp_path / "whole", folder, *options)
    run(stage, tmp_path / "stopped", folder, *options, "stop_at=48")
    resumed = run(stage, tmp_path / "stopped", folder, *options)
    assert report(resumed)["steps"][0] > 0
    assert_equal(whole, resumed)


def test_recomputed_and_in_micro_batches(folder: Path, tmp_path: Path) -> None:
    plain = run("tokenizer", tmp_path / "plain", folder, *ADAMW, *EXACT)
    again = run("tokenizer", tmp_path / "again", folder, *ADAMW, *EXACT, "train.recompute=true")
    assert losses(again) == pytest.approx(losses(plain), rel=1e-3)
    options = (*ADAMW, *EXACT, "normalize=none")  # statistics are those of a micro-batch
    whole = run("tokenizer", tmp_path / "whole", folder, *options)
    parts = run("tokenizer", tmp_path / "parts", folder, *options, "train.micro_batch=2")
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-3)


def test_torchrun_through_nccl(folder: Path, tmp_path: Path) -> None:
    alone = run("tokenizer", tmp_path / "alone", folder, *STAGES["tokenizer"], *EXACT)
    nccl = run("tokenizer", tmp_path / "nccl", folder, *STAGES["tokenizer"], *EXACT, torchrun=True)
    assert losses(nccl) == pytest.approx(losses(alone), rel=1e-3)


@pytest.mark.slow
def test_compiled(folder: Path, tmp_path: Path) -> None:
    plain = run("tokenizer", tmp_path / "plain", folder, *ADAMW, *EXACT)
    compiled = run("tokenizer", tmp_path / "compiled", folder, *ADAMW, *EXACT, "train.compile=true")
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)


def test_the_micro_batch_is_what_fits(config: TokenizerConfig, pictures: ImageSet) -> None:
    large = config.model_copy(update={"encoder_width": 256, "decoder_width": 256})
    train = TokenizerTrainConfig(images=32768, batch_size=16384, micro_batch="auto", evaluation_images=8)
    task = TokenizerTask(large, train, pictures)
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        settled: TrainConfig = settle_micro_batch(task, train, start_engine(train), out=None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert isinstance(settled.micro_batch, int)
    assert 1 <= settled.micro_batch < 16384


def test_both_write_and_paint_the_same(config: TokenizerConfig, pictures: ImageSet) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config).eval()
    images = to_float(pictures.batch(pictures.indices("all")))
    codes = tokenizer.encode(images)
    painted = tokenizer.decode(codes)
    tokenizer.cuda()
    assert (tokenizer.encode(images.cuda()).cpu() == codes).float().mean() > 0.99  # on an edge, rounding decides
    difference = to_uint8(tokenizer.decode(codes).cpu()).int() - to_uint8(painted).int()
    assert difference.abs().max() <= 1
    better = tokenizer.decode(tokenizer.encode(images, refine=4)).cpu()
    before, after = ((y - images).square().mean((1, 2, 3)) for y in (painted, better))
    assert after.mean() < before.mean()


def test_both_sample_the_same() -> None:
    torch.manual_seed(0)
    shape = GeneratorConfig(codebook_size=1000, tokens=8, classes=("box", "disc"), width=32, depth=2, heads=2)
    generator = Generator(shape).eval()
    on_cpu = generator.sample(64, seed=3)
    on_gpu = generator.cuda().sample(64, seed=3)
    assert (on_gpu == on_cpu).all(dim=1).float().mean() > 0.95  # a close draw can fall either way


def test_both_measure_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sets = [PictureSet(rng.integers(0, high, (64, 3, 32, 32), dtype=np.uint8), "s", str(high)) for high in (256, 200)]
    on_gpu = distance(*sets, features="random-conv")["metrics"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu == pytest.approx(distance(*sets, features="random-conv")["metrics"], rel=1e-3)
