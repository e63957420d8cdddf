"""Several processes, signals and sudden death: a run goes on as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from svq.errors import RunStopped
from svq.training.checkpoint import read_tensors
from svq.training.log import read_log

RUNNER = Path(__file__).with_name("runner.py")


def launch(stage: str, out: Path, folder: Path, *assignments: str, processes: int = 1) -> int:
    """Run a small training as a program and return its exit code."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(RUNNER), stage, str(out), str(folder), *assignments]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False
    )
    if done.returncode not in (0, 1, -9, RunStopped.EXIT_CODE) or "Traceback" in done.stdout:
        raise AssertionError(done.stderr[-3000:])
    return done.returncode


def tensors(out: Path) -> dict[str, Tensor]:
    """Return all tensors of the last checkpoint."""
    folder = max((out / "checkpoints").glob("[0-9]*"))
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.name}:{name}": t for f in files for name, t in read_tensors(f).items()}


def assert_equal(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert not [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, folder: Path, _session: None) -> dict[str, Path]:
    """Runs that nothing happened to, by name."""
    root = tmp_path_factory.mktemp("undisturbed")
    runs = {"fsq1": ("tokenizer", 1), "fsq2": ("tokenizer", 2), "vq2": ("tokenizer", 2), "gpt2": ("generator", 2)}
    for name, (stage, processes) in runs.items():
        assignments = ("quantizer=vq",) if name.startswith("vq") else ()
        assert launch(stage, root / name, folder, *assignments, processes=processes) == 0
    return {name: root / name for name in runs}


def test_two_processes_learn_what_one_does(undisturbed: dict[str, Path]) -> None:
    one, two = tensors(undisturbed["fsq1"]), tensors(undisturbed["fsq2"])
    # Muon and AdamW magnify rounding; the first steps are where both must agree closely.
    first = [[r["loss"] for r in read_log(undisturbed[name]) if "loss" in r] for name in ("fsq1", "fsq2")]
    assert first[0] == pytest.approx(first[1], rel=2e-3)
    for name in ("model.safetensors:encoder.input.weight", "model.safetensors:norm.norm.running_mean"):
        torch.testing.assert_close(two[name], one[name], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", ["fsq2", "vq2", "gpt2"])
def test_all_processes_end_with_the_same_weights_codebooks_and_steps(undisturbed: dict[str, Path], name: str) -> None:
    first, second = (json.loads((undisturbed[name] / f"process{i}.json").read_text()) for i in range(2))
    assert first == second
    assert first["steps"] == list(range(0, 96, 8))


@pytest.mark.parametrize(
    ("name", "stage", "stop_at", "rank"),
    [
        ("fsq2", "tokenizer", 16, 1),  # continuous, in the middle of an epoch, the second process is told
        ("vq2", "tokenizer", 48, 0),  # while more and more pictures are quantized, in the second epoch
        ("gpt2", "generator", 40, 1),
    ],
)
def test_two_processes_stop_together_and_go_on_bit_for_bit(
    undisturbed: dict[str, Path], folder: Path, tmp_path: Path, name: str, stage: str, stop_at: int, rank: int
) -> None:
    assignments = ("quantizer=vq",) if name.startswith("vq") else ()
    stopping = (*assignments, f"stop_at={stop_at}", f"rank_stops={rank}", "train.save_every=96")
    # torchrun itself ends with 1 when its processes end with 75.
    assert launch(stage, tmp_path, folder, *stopping, processes=2) == 1
    state = json.loads((max((tmp_path / "checkpoints").iterdir()) / "state" / "run.json").read_text())
    assert state["position"]["seen"] == stop_at + 8
    assert launch(stage, tmp_path, folder, *assignments, "train.save_every=96", processes=2) == 0
    assert_equal(tmp_path, undisturbed[name])


def test_a_nan_in_one_process_makes_all_skip_the_step(folder: Path, tmp_path: Path) -> None:
    assert launch("tokenizer", tmp_path, folder, "nan_at=32", "rank_stops=1", "train.images=64", processes=2) == 0
    state = json.loads((max((tmp_path / "checkpoints").iterdir()) / "state" / "run.json").read_text())
    assert state["position"]["skipped"] == 1
    first, second = (json.loads((tmp_path / f"process{i}.json").read_text()) for i in range(2))
    assert first == second
    assert all(tensor.isfinite().all() for tensor in tensors(tmp_path).values())


def test_a_signal_saves_and_leaves_with_its_own_exit_code(
    undisturbed: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    assert launch("tokenizer", tmp_path, folder, "stop_at=32") == RunStopped.EXIT_CODE
    assert max((tmp_path / "checkpoints").iterdir()).name == f"{40:012d}"
    assert launch("tokenizer", tmp_path, folder) == 0
    assert_equal(tmp_path, undisturbed["fsq1"])


def test_a_killed_run_goes_on_bit_for_bit(undisturbed: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    for kill_at in (24, 64):
        assert launch("tokenizer", tmp_path, folder, f"kill_at={kill_at}") == -9
    assert launch("tokenizer", tmp_path, folder) == 0
    assert_equal(tmp_path, undisturbed["fsq1"])


def test_another_number_of_processes_is_refused(undisturbed: dict[str, Path], folder: Path) -> None:
    before = tensors(undisturbed["fsq1"])
    command = [sys.executable, str(RUNNER), "tokenizer", str(undisturbed["fsq2"]), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "processes: 2 -> 1" in done.stderr
    assert before.keys() == tensors(undisturbed["fsq1"]).keys()


def test_whenever_it_is_killed_a_run_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.kill_test", "--kills", "5", "--images", "240", "--out", str(tmp_path)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "5 kills" in done.stdout
    assert "0 could not go on; 0 ended otherwise" in done.stdout
