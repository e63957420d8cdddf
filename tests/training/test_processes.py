"""Several processes, signals and sudden death: a run goes on as if nothing had happened."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svq.errors import RunStopped
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.training.checkpoint import read_tensors
from svq.training.device import build_seeded
from svq.training.log import read_log
from svq.training.signals import ECHO_S
from tests.training.runner import SHAPE, run_in_child, spoken

RUNNER = Path(__file__).with_name("runner.py")
FORKS = multiprocessing.get_context("forkserver")  # a start of Python and torch takes seconds, a fork does not
FORKS.set_forkserver_preload(["tests.training.runner"])
ON_CPU = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # several processes on one GPU is what NCCL refuses
PLAIN = ("quantizer=vq", "train.optimizer.name=adamw")
SHARDED = (*PLAIN, "train.recompute=true", "train.shard=true")  # as `seed` would
MICRO = ("train.micro_batch=2",)  # half of a process's share
RUNS: dict[str, tuple[Any, ...]] = {  # stage, processes, assignments
    "fsq1": ("tokenizer", 1),
    "fsq2": ("tokenizer", 2),
    "vq2": ("tokenizer", 2, "quantizer=vq"),
    "kmeans2": ("tokenizer", 2, "quantizer=kmeans"),
    "vq2adamw": ("tokenizer", 2, *PLAIN),
    "vq2sharded": ("tokenizer", 2, *SHARDED),
    "gpt2": ("generator", 2, *MICRO),
    "gpt2sharded": ("generator", 2, *MICRO, "train.shard=true"),
}


def launch(stage: str, out: Path, folder: Path, *assignments: str, processes: int = 1) -> set[int]:
    """Run a small training in processes of its own, as torchrun would start them, and return their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    workers = []
    for rank in range(processes):
        place = {**where, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        environment = {**os.environ, **place, **ON_CPU}
        words = [stage, str(out), str(folder), *assignments]
        workers.append(FORKS.Process(target=run_in_child, args=(environment, words), daemon=True))
        workers[-1].start()
    for worker in workers:
        worker.join(120)
        worker.kill()  # does nothing to one that has ended
        worker.join()
    for rank in range(processes):
        sys.stderr.write(spoken(out, rank).read_text())
    return {worker.exitcode or 0 for worker in workers}


def tensors(out: Path) -> dict[str, Tensor]:
    """Return all tensors of the last checkpoint."""
    folder = max((out / "checkpoints").glob("[0-9]*"))
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.name}:{name}": t for f in files for name, t in read_tensors(f).items()}


def assert_equal(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert not [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def steps(out: Path, rank: int = 0) -> list[int]:
    """Return how many images had been seen before each step of the last start."""
    return list(json.loads((out / f"process{rank}.json").read_text())["steps"])


class Undisturbed(dict[str, Path]):
    """Runs that nothing happened to, by name; each is made when first asked for, so that one's end is not all's."""

    def __init__(self, root: Path, folder: Path) -> None:
        super().__init__()
        self.root, self.folder = root, folder

    def __missing__(self, name: str) -> Path:
        out = self.root / name
        assert not out.exists(), f"{name} failed before"
        stage, processes, *assignments = RUNS[name]
        assert launch(stage, out, self.folder, *assignments, processes=processes) == {0}
        self[name] = out
        return out


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, folder: Path, _session: None) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), folder)


def test_torchrun_starts_it(undisturbed: Undisturbed, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(RUNNER), "tokenizer", str(tmp_path), str(folder)],
        env={**os.environ, **ON_CPU},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal(tmp_path, undisturbed["fsq2"])


def test_two_processes_learn_what_one_does(undisturbed: Undisturbed) -> None:
    one, two = tensors(undisturbed["fsq1"]), tensors(undisturbed["fsq2"])
    losses = [[r["loss"] for r in read_log(undisturbed[name]) if "loss" in r] for name in ("fsq1", "fsq2")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    mean = "model.safetensors:norm.norm.running_mean"
    torch.testing.assert_close(two[mean], one[mean], rtol=0.05, atol=0.01)
    variance = "model.safetensors:norm.norm.running_var"
    torch.testing.assert_close(two[variance], one[variance], rtol=0.05, atol=0.01)
    measured = [[r["evaluation"] for r in read_log(undisturbed[n]) if "evaluation" in r][-1] for n in ("fsq1", "fsq2")]
    assert measured[0] == pytest.approx(measured[1], rel=0.05)
    # Where the weights have gone, and not just that they have not gone far. Muon and AdamW magnify rounding.
    name = "encoder.input.weight"
    start = build_seeded(0, lambda: StyledTokenizer(TokenizerConfig(**SHAPE))).state_dict()[name]
    moved = [(run[f"model.safetensors:{name}"] - start).flatten() for run in (one, two)]
    assert torch.cosine_similarity(*moved, dim=0).item() > 0.95
    assert moved[0].norm().item() == pytest.approx(moved[1].norm().item(), rel=0.05)


@pytest.mark.parametrize(("plain", "sharded"), [("vq2adamw", "vq2sharded"), ("gpt2", "gpt2sharded")])
def test_sharded_weights_learn_what_whole_ones_do(undisturbed: Undisturbed, plain: str, sharded: str) -> None:
    one, other = tensors(undisturbed[plain]), tensors(undisturbed[sharded])
    assert {name: t.shape for name, t in one.items()} == {name: t.shape for name, t in other.items()}
    assert not [name for name, tensor in one.items() if not torch.allclose(other[name], tensor, rtol=1e-3, atol=1e-4)]
    for value in ("loss", "gradient_norm"):  # AdamW would forgive gradients that are too large
        course = [[r[value] for r in read_log(undisturbed[name]) if value in r] for name in (plain, sharded)]
        assert course[0]
        assert course[0] == pytest.approx(course[1], rel=1e-3)


@pytest.mark.parametrize("name", [name for name in RUNS if "2" in name])
def test_all_processes_end_with_the_same_weights_codebooks_and_steps(undisturbed: Undisturbed, name: str) -> None:
    first, second = (json.loads((undisturbed[name] / f"process{i}.json").read_text()) for i in range(2))
    assert first == second
    assert first["steps"] == list(range(0, 96, 8))


@pytest.mark.parametrize(
    ("name", "stop_at", "rank"),
    [
        ("fsq2", 16, 1),  # continuous, in the middle of an epoch, the second process is told
        ("vq2", 48, 0),  # while more and more pictures are quantized
        ("vq2", 72, 1),  # all of them are, in the second epoch
        ("kmeans2", 72, 0),
        ("vq2sharded", 48, 1),
        ("gpt2", 40, 1),
    ],
)
def test_two_processes_stop_together_and_go_on_bit_for_bit(
    undisturbed: Undisturbed, folder: Path, tmp_path: Path, name: str, stop_at: int, rank: int
) -> None:
    stage, _, *assignments = RUNS[name]
    stopping = (*assignments, f"stop_at={stop_at}", f"rank_stops={rank}", "train.save_every=96")
    assert launch(stage, tmp_path, folder, *stopping, processes=2) == {RunStopped.EXIT_CODE}
    state = json.loads((max((tmp_path / "checkpoints").iterdir()) / "state" / "run.json").read_text())
    assert state["position"]["seen"] == stop_at + 8
    assert launch(stage, tmp_path, folder, *assignments, "train.save_every=96", processes=2) == {0}
    assert steps(tmp_path) == steps(tmp_path, rank=1) == list(range(stop_at + 8, 96, 8))
    assert_equal(tmp_path, undisturbed[name])


def test_a_nan_in_one_process_makes_all_skip_the_step(folder: Path, tmp_path: Path) -> None:
    assert launch("tokenizer", tmp_path, folder, "nan_at=32", "rank_stops=1", "train.images=64", processes=2) == {0}
    state = json.loads((max((tmp_path / "checkpoints").iterdir()) / "state" / "run.json").read_text())
    assert state["position"]["skipped"] == 1
    first, second = (json.loads((tmp_path / f"process{i}.json").read_text()) for i in range(2))
    assert first == second
    assert all(tensor.isfinite().all() for tensor in tensors(tmp_path).values())


def test_a_signal_saves_and_leaves_with_its_own_exit_code(
    undisturbed: Undisturbed, folder: Path, tmp_path: Path
) -> None:
    assert launch("tokenizer", tmp_path, folder, "stop_at=32") == {RunStopped.EXIT_CODE}
    assert max((tmp_path / "checkpoints").iterdir()).name == f"{40:012d}"
    assert launch("tokenizer", tmp_path, folder) == {0}
    assert steps(tmp_path)[0] == 40
    assert_equal(tmp_path, undisturbed["fsq1"])


def test_a_second_signal_ends_it_at_once(folder: Path, tmp_path: Path) -> None:
    stopping = ("stop_at=32", "stops=2", f"pause={ECHO_S + 0.1}", "train.save_every=96")
    assert launch("tokenizer", tmp_path, folder, *stopping) == {-signal.SIGTERM}
    assert not list(tmp_path.glob("checkpoints/*"))


def test_the_same_signal_twice_saves_all_the_same(folder: Path, tmp_path: Path) -> None:
    """As where a service manager signals each process, and the one that started them passes it on."""
    stopping = ("stop_at=32", "stops=2", "train.save_every=96")
    assert launch("tokenizer", tmp_path, folder, *stopping) == {RunStopped.EXIT_CODE}
    assert max((tmp_path / "checkpoints").iterdir()).name == f"{40:012d}"


def test_half_precision_learns_nearly_the_same(undisturbed: Undisturbed, folder: Path, tmp_path: Path) -> None:
    assert launch("tokenizer", tmp_path, folder, "train.precision=bf16") == {0}
    losses = [[r["loss"] for r in read_log(run) if "loss" in r] for run in (tmp_path, undisturbed["fsq1"])]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    assert all(t.dtype != torch.bfloat16 for t in tensors(tmp_path).values())


def test_a_killed_run_goes_on_bit_for_bit(undisturbed: Undisturbed, folder: Path, tmp_path: Path) -> None:
    for kill_at in (24, 64):
        assert launch("tokenizer", tmp_path, folder, f"kill_at={kill_at}") == {-signal.SIGKILL}
    assert launch("tokenizer", tmp_path, folder) == {0}
    assert steps(tmp_path)[0] == 64
    assert_equal(tmp_path, undisturbed["fsq1"])


def test_another_number_of_processes_is_refused(
    undisturbed: Undisturbed, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tensors(undisturbed["fsq2"])
    assert launch("tokenizer", undisturbed["fsq2"], folder) == {1}
    assert "processes: 2 -> 1" in capsys.readouterr().err
    after = tensors(undisturbed["fsq2"])
    assert not [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]


def test_whenever_it_is_killed_a_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "kills"
    command = [sys.executable, "-m", "benchmarks.kill_test", "--kills", "5", "--images", "240", "--out", str(out)]
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
    result = json.loads(done.stdout)
    assert result["kills"] == 5
    assert result["went_on_from_the_newest_checkpoint"] >= 1
    assert result["could_not_go_on"] == result["ended_otherwise"] == 0
