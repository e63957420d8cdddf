"""Mistakes end with one clear line and exit code 2, and lose nothing."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import save_file

from svq.cli import app, machine
from svq.cli.options import count
from svq.cli.output import check_file, check_folder, show
from svq.errors import UserError, nearest

MISTAKES = {
    "tokenizer train --data nowhere": "no data source 'nowhere'; expected a folder of images",
    "tokenizer train --preset nanno": "unknown preset 'nanno'; did you mean 'nano'?",
    "tokenizer train --set train.sed=1": "unknown key 'train.sed'; did you mean 'seed'?",
    "tokenizer train --images many": "expected a whole number above 0 such as 3000, 200k or 1.5M, got 'many'",
    "tokenizer train --images inf": "expected a whole number above 0 such as 3000, 200k or 1.5M, got 'inf'",
    "tokenizer train --out /dev/null": "'/dev/null' cannot be a folder of its own",
    "tokenize --refine -1": "--refine",
    "tokenize --tokenizer openmoji-32 --column image=photo": "are for lists, which are streamed; give --stream, too",
    "data verify .": ". is a folder; name the index of a packed set, or its .rec",
    "tokenize --out .": "'.' cannot be a file",
    "tokenize --out list.csv": "'list.csv' must end in .safetensors",
    "eval fid --out scores.png": "'scores.png' must end in .json",
    "quickstart --data .": "'runs/quickstart' lies in '.', and would be among its pictures next time",
    "tokenizer train --data .": "'runs/tokenizer' lies in '.', and would be among its pictures next time",
    "eval order --data . --out order": "'order' lies in '.', and would be among its pictures next time",
    "data info . --sheet sheet.png": "'sheet.png' lies in '.', and would be among its pictures next time",
    "generator train --set train.recompute=true": "unknown key 'train.recompute'",
    "generator train --set model.image_size=3": "unknown key 'model.image_size'; known: depth, dropout, heads, width",
    "generate --out .": "'.' cannot be a folder of its own",
    "data info --sheet sheet": "'sheet' must end in .png",
    "data pack --out x.json": "'x.json' must end in .rec",
    "data info --image-size 1000000": "--image-size",
    "tokenizer train --batch-size 0": "--batch-size",
    "tokenizer train --batch-size some": "expected a whole number above 0, or auto, got 'some'",
    "tokenizer train --loader dali": "--loader dali reads packed sets, and 'openmoji' is none",
    "tokenizer train --set train.precision=fp8": "train.precision: Input should be 'auto', 'fp32' or 'bf16'",
    "paint": "no codes yet",
    "tokenizer train --set train.kl_weight=nan": "train.kl_weight: Input should be a finite number",
    "generate --guidance nan": "guidance",
    "tokenizer train --config none.yaml": "none.yaml cannot be read",
    "tokenize --tokenizer nowhere": "no checkpoint in nowhere",
    "tokenize --split test": "'test' is not one of 'train', 'val', 'all'",
    "generator train": "no codes yet",
    "generate --n 4": "no generator yet",
    "generate --n 0": "--n",
    "eval fid --features random-conv": "no samples yet",
    "eval fid --weights none.pth": "no file of weights at none.pth; expected those of Inception",
    "eval recon --tokenizer nowhere": "no checkpoint in nowhere",
    "eval recon --weights none.pth": "--weights are Inception's, and --features is none",
    "eval fid --features random-conv --weights none.pth": "--weights are Inception's, and --features is random-conv",
    "tokenizer export --tokenizer nowhere": "no checkpoint in nowhere",
    "data pack nowhere": "no data source 'nowhere'",
    "data pack --max-broken some": "expected a share such as 1% or a number of pictures such as 100, got 'some'",
    "data pack openmoji --root .": "--root and --column are for lists",
    "data pack none.csv": "no such file: none.csv",
    "data pack --column caption": "expected --column KIND=NAME such as caption=title, got 'caption'",
    "data caption nowhere --model m --out a.jsonl": "no data source 'nowhere'",
    "data caption openmoji --model m --out a.json": "'a.json' must end in .jsonl",
    "data fetch none.csv --out photos": "no such file: none.csv",
    "data fetch none.csv --out photos --column url": "expected --column KIND=NAME such as caption=title, got 'url'",
    "data verify none.rec": "no packed set none.rec: neither none.json nor none.rec is there",
    "data info none.json": "no packed set none.json",
    "data info idx:.": "no file train-images-idx3-ubyte",
    "nonsense": "No such command 'nonsense'",
}


def svq(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    code = "from svq.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # In this process: a new one for each would load torch fifty times.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["svq", *command.split()])
    with pytest.raises(SystemExit) as ended:
        app.main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said.err
    assert MISTAKES[command] in said.err
    assert said.err.count("\n") == 1, said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_last_result_that_is_gone_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "last.json").write_text('{"tokenizer": "runs/mine", "codes": 5}')
    done = svq("eval", "recon", cwd=tmp_path)
    assert done.returncode == 2
    assert "the last tokenizer, runs/mine, is gone" in done.stderr


def test_a_last_result_that_comes_with_svq_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "last.json").write_text('{"tokenizer": "openmoji-64"}')
    done = svq("tokenizer", "export", "--out", "copy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy" / "manifest.json").exists()


def test_no_file_but_one_of_codes_is_written_over(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"x": np.zeros(1)}, weights)
    before = weights.read_bytes()
    done = svq("tokenize", "--tokenizer", "openmoji-32", "--out", "model.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "model.safetensors exists and holds no codes; give another --out" in done.stderr
    assert weights.read_bytes() == before
    done = svq("paint", "--codes", ".", "--tokenizer", "openmoji-32", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert ". is a folder; give the file that 'svq tokenize' wrote" in done.stderr


def test_a_result_is_not_cut_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["a-long-name"] * 40)
    show({}, {"file": path}, as_json=False)
    assert path in capsys.readouterr().out


def test_without_a_command_there_is_help_and_no_empty_error(tmp_path: Path) -> None:
    done = svq("eval", cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: svq eval" in done.stdout + done.stderr
    assert "error:" not in done.stderr


def test_a_place_without_permission_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "locked")  # root may do anything
    (tmp_path / "locked").mkdir()
    for check in (check_file, check_folder):
        with pytest.raises(UserError, match=r"cannot be written: no permission in .*locked; give another --out"):
            check(tmp_path / "locked" / "new" / "result")
        check(tmp_path / "new" / "result")


def test_home_is_found_behind_an_equals_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["svq", "generate", "--out=~/file/samples"])
    monkeypatch.setattr(app, "_fail", said := Mock(side_effect=SystemExit(2)))
    with pytest.raises(SystemExit):
        app.main()
    assert f"'{tmp_path}/file/samples' cannot be a folder" in said.call_args[0][0]


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    for arguments in (["--debug", "generate"], ["generate", "--debug"]):
        done = svq(*arguments, cwd=tmp_path)
        assert done.returncode != 0
        assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError("Unable to allocate 9 GiB"),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit, match="2"):
        app.main()
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory; ")
    assert "--batch-size auto" in said
    assert said.count("\n") == 1

    monkeypatch.setenv("RANK", "3")  # where it may have happened alone
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert capsys.readouterr().err.startswith("error: process 3: out of memory; ")


def test_a_count_may_be_a_fraction_of_thousands() -> None:
    assert [count(text) for text in ("4.1M", "16.1k", "3000", "1.5m")] == [4_100_000, 16_100, 3000, 1_500_000]
    for wrong in ("0", "-1k", "1.0001k", "nan", "inf", "1e", "k", "", "1e1000000", "1E999999"):
        with pytest.raises(typer.BadParameter):
            count(wrong)


def test_a_class_among_a_thousand_is_not_looked_for_in_one_line() -> None:
    classes = [f"class {i:04d}" for i in range(1000)]
    assert nearest("class 0017!", classes) == "; did you mean 'class 0017'?"
    assert nearest("qqq", classes).endswith("class 0019 and 980 more")
    assert nearest("qqq", classes[:2]) == "; known: class 0000, class 0001"


def test_the_doctor_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def versions() -> dict[str, str]:
        raise PackageNotFoundError("torch-fidelity")

    monkeypatch.setattr(machine, "versions", versions)
    assert machine.examine(measure=False) == [
        machine.Check("packages", "broken", "torch-fidelity is not installed as a package")
    ]


def test_the_doctor_looks_for_all_that_svq_needs() -> None:
    needs = [need for need in requires("svq") or () if "extra ==" not in need]
    modules = {re.split(r"[^\w-]", need)[0].replace("-", "_").replace("pyyaml", "yaml") for need in needs}
    assert modules - {"typer", "rich", "numpy", "pillow"} <= set(machine.REQUIRED)  # these the doctor cannot do without


# A shell has its background jobs ignore Ctrl-C, and these tests with them: a terminal's commands do not.
HALF_WRITTEN = """
import signal
import time
from pathlib import Path
from svq.cli import app, main
from svq.files import new_file

def half():
    with new_file(Path("result.json")) as work:
        work.write_text("half")
        print("begun", flush=True)
        time.sleep(60)

app.main = half
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
main()
"""


@pytest.mark.parametrize(
    ("number", "rank", "code", "left"),
    [
        (signal.SIGTERM, None, 143, 0),
        (signal.SIGHUP, None, 129, 0),
        (signal.SIGINT, None, 130, 0),
        (signal.SIGTERM, "0", -signal.SIGTERM, 1),
    ],
)
def test_a_command_that_is_told_to_end_leaves_nothing_half_written(
    number: int, rank: str | None, code: int, left: int, tmp_path: Path
) -> None:
    env = {**os.environ, **({"RANK": rank} if rank else {})}
    command = [sys.executable, "-c", HALF_WRITTEN]
    running = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"
    running.send_signal(number)
    assert running.communicate(timeout=60) == (b"", b"")
    assert running.returncode == code
    assert len(list(tmp_path.iterdir())) == left


def test_ctrl_c_while_a_command_loads_is_quiet(tmp_path: Path) -> None:
    # Sent by the first module that the program imports, once the program has begun.
    interrupt = "signal.signal(signal.SIGINT, signal.default_int_handler); signal.raise_signal(signal.SIGINT)"
    (tmp_path / "typer.py").write_text(f"import signal; {interrupt}\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "svq"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
