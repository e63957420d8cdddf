"""The training commands as a user runs them: dry, in two processes, stopped and continued."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = [
    *("--set", "model.image_size=16", "--set", "model.encoder_width=32", "--set", "model.encoder_heads=2"),
    *("--set", "model.decoder_width=32", "--set", "model.decoder_heads=2", "--set", "model.tokens=4"),
    *("--set", "model.looks=2"),
    *("--set", "train.evaluation_images=4", "--batch-size", "8"),
]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def svq(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "svq", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240, check=False)


def test_a_dry_run_says_what_a_run_would_need_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    done = svq(
        "tokenizer", "train", "--data", str(folder), "--images", "800", "--dry-run", "--json", *TINY, cwd=tmp_path
    )
    result = json.loads(done.stdout)
    assert result["batch_size"] == 8
    assert result["seconds"] == pytest.approx(800 / result["images_per_s"])
    assert not list(tmp_path.iterdir())


def test_two_processes_train_and_leave_one_run(folder: Path, tmp_path: Path) -> None:
    done = svq("tokenizer", "train", "--data", str(folder), "--images", "64", "--nproc", "2", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "runs/tokenizer/checkpoints/000000000064/state/run.json").read_text())
    assert state["identity"]["processes"] == 2
    assert done.stdout.count("svq tokenize") == 1


def test_a_mistake_is_said_once_by_two_processes(folder: Path, tmp_path: Path) -> None:
    done = svq("tokenizer", "train", "--data", str(folder), "--nproc", "2", *TINY[:-1], "9", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("train.batch_size 9 cannot be shared by 2 processes") == 1
    assert "Traceback" not in done.stderr


def test_what_one_process_finds_in_the_pictures_is_said_once_by_two(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    done = svq("tokenizer", "train", "--data", "photos", "--nproc", "2", *TINY, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("error: no readable picture in photos") == 1
    assert "Traceback" not in done.stderr


def wait_for_progress(log: Path) -> None:
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_command_exits_with_75_and_goes_on(folder: Path, tmp_path: Path, processes: int) -> None:
    arguments = ["tokenizer", "train", "--data", str(folder), "--images", "1600", "--nproc", str(processes), *TINY]
    running = subprocess.Popen(
        [sys.executable, "-m", "svq", *arguments], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for_progress(tmp_path / "runs/tokenizer/log.jsonl")
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 75, said
    assert "the same command goes on" in said
    stopped_at = max((tmp_path / "runs/tokenizer/checkpoints").iterdir()).name
    assert 0 < int(stopped_at) < 1600
    done = svq(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"going on from image {int(stopped_at):,} of 1,600" in done.stderr
    assert json.loads(done.stdout)["processes"] == processes


IN_A_TERMINAL = """
import os, signal, sys

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # should the tests run under nohup
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)  # of a process that leads a session, this becomes its terminal
for standard in range(3):
    os.dup2(terminal, standard)
os.execv(sys.executable, [sys.executable, "-m", "svq", *sys.argv[2:]])
"""


def test_a_run_whose_terminal_is_closed_saves(folder: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["tokenizer", "train", "--data", str(folder), "--images", "16000", *TINY]
    running = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, os.ttyname(theirs), *arguments], cwd=tmp_path, env=environment()
    )
    wait_for_progress(tmp_path / "runs/tokenizer/log.jsonl")
    os.close(theirs)
    os.close(ours)
    assert running.wait(timeout=120) == 75
    stopped_at = max((tmp_path / "runs/tokenizer/checkpoints").iterdir()).name
    assert 0 < int(stopped_at) < 16000
