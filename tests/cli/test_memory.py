"""What does not fit into memory, with a bound of some hundred MB above what the program itself takes."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from svq.cli import memory
from tests.cli.test_training import TINY, environment

# Loaded first, so that the room is what is left for pictures: how much the libraries take is the machine's affair.
BOUNDED = """
import sys
import psutil, torch, accelerate, torchvision
import svq.tokenizer.task
from svq.cli import main, memory
used = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) * 1024
psutil.virtual_memory = lambda: type("Memory", (), {"available": used + (225 << 20)})
psutil.swap_memory = lambda: type("Memory", (), {"free": 0})
memory.DRIVERS = ()
main()
"""


def bounded(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BOUNDED, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240, check=False)


def test_a_batch_that_does_not_fit_ends_in_one_line(folder: Path, tmp_path: Path) -> None:
    train = ("tokenizer", "train", "--data", str(folder), *TINY, "--batch-size", "4096", "--dry-run")
    done = bounded(*train, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: out of memory; training and generate take a smaller --batch")
    assert "Traceback" not in done.stderr


def test_a_cpu_finds_how_many_images_fit(folder: Path, tmp_path: Path) -> None:
    train = ("tokenizer", "train", "--data", str(folder), *TINY, "--set", "train.batch_size=4096")
    done = bounded(*train, "--batch-size", "auto", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 16 <= json.loads(done.stdout)["micro_batch"] < 4096


@pytest.mark.parametrize(("before", "bound"), [(-1, 3000), (2000, 2000)])
def test_memory_is_bounded_by_what_is_free(monkeypatch: pytest.MonkeyPatch, before: int, bound: int) -> None:
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (before, -1))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: given.append((kind, limits)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 5000}))
    monkeypatch.setattr(psutil, "swap_memory", lambda: type("Memory", (), {"free": 1000}))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(memory, "DRIVERS", ())
    memory.bound_memory()
    assert given == [(resource.RLIMIT_DATA, (bound, -1))]
    monkeypatch.setattr(memory, "DRIVERS", (Path("/"),))
    memory.bound_memory()
    assert len(given) == 1
