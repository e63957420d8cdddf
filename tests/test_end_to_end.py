"""The whole chain through the command line, at a toy's size: every command does what it says."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from svq.cli import source
from svq.cli.app import app
from svq.data.codes import load_codes

FILES = (
    "report.html",
    "metrics.json",
    "reconstructions.png",
    "order.png",
    "codes.safetensors",
    "samples/grid.png",
    "tokenizer/curve.png",
    "generator/curve.png",
)


def svq(line: str) -> dict:
    """Run a command with --json and return what it prints on stdout, which must be JSON and nothing else."""
    result = CliRunner().invoke(app, [*line.split(), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_chain(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = svq(f"quickstart --data {folder} --images 128 --sequences 128")
    for name in FILES:
        assert (tmp_path / "runs" / "quickstart" / name).stat().st_size > 200, name
    assert result["order"]["psnr"].keys() == {str(k) for k in range(1, 37)}
    assert json.loads((tmp_path / "runs/quickstart/metrics.json").read_text())["numbers"] == result["numbers"]

    assert (
        f"svq quickstart --data {folder} --images 128 --sequences 128 --seed 0"
        in (tmp_path / "runs/quickstart/report.html").read_text()
    )

    # Run again, it trains nothing and finds the same.
    assert svq(f"quickstart --data {folder} --images 128 --sequences 128")["numbers"] == result["numbers"]

    # What comes after a quickstart needs no other argument.
    generated = svq("generate --n 70")
    assert generated["count"] == 70
    assert len(list(Path("runs/samples/images").iterdir())) == 70
    fid = svq(f"eval fid --features random-conv --reference {folder}")
    assert fid["metrics"]["frechet_random_conv"] > 0
    assert fid["samples"]["count"] == 70
    recon = svq(f"eval recon --data {folder} --features random-conv")
    assert recon["frechet"] > 0
    assert recon["psnr"] == pytest.approx(result["order"]["psnr"]["36"], abs=0.01)
    order = svq(f"eval order --data {folder} --features random-conv --out order")
    with Image.open("order/prefixes.png") as strip:
        assert strip.height > 5 * 64
    assert len(order["effects"]) == len(order["frechet"]) == 36
    codebook = svq(f"eval codebook --data {folder} --out codebook")
    assert len(codebook["information"]) == 36
    assert 0 < codebook["used"] <= 1

    # Stage by stage, the same again.
    trained = svq(f"tokenizer train --data {folder} --images 128 --out t")
    for k in (1, 4, 12, 36):
        assert trained["metrics"][f"psnr_{k}"] == pytest.approx(result["order"]["psnr"][str(k)], abs=0.01)
    exported = svq("tokenizer export --tokenizer t --out e")
    assert exported["bytes"] < 7_000_000
    whole = svq("tokenizer export --tokenizer t --full --out whole")
    assert whole["fingerprint"] == load_codes(Path("runs/quickstart/codes.safetensors")).tokenizer
    assert exported["fingerprint"] != whole["fingerprint"]
    assert svq(f"eval recon --tokenizer e --data {folder}")["psnr"] == pytest.approx(recon["psnr"], abs=0.05)
    written = svq(f"tokenize --data {folder} --out c.safetensors")
    assert written["count"] == 64
    streamed = svq(f"tokenize --data {folder} --stream --refine 1 --out s.safetensors")
    assert load_codes(Path("s.safetensors")).refine == streamed["refine"] == 1
    assert (streamed["count"], streamed["skipped"]) == (64, [])
    Path("list.csv").write_text("photo_of,what\ndisc/00.png,disc\nbox/01.png,box\n")
    named = "--column image=photo_of --column class=what"
    listed = svq(f"tokenize --data list.csv --root {folder} {named} --stream --out l.safetensors")
    assert (listed["count"], load_codes(Path("l.safetensors")).classes) == (2, ("box", "disc"))
    assert svq("paint --codes c.safetensors --tokenizer t --first 4 --out painted")["count"] == 64
    assert len(list(Path("painted/images").glob("*.png"))) == 64
    assert svq("paint --codes c.safetensors --tokenizer t --out painted")["codes"] == 36
    assert json.loads(Path("painted/samples.json").read_text())["codes"] == 36  # in place of the old
    written = svq(f"tokenize --data {folder} --out c.safetensors")
    second = svq("generator train --images 128 --out g")
    assert second["metrics"] == result["generator"]
    one_class = svq("generate --n 2 --class disc --guidance 2 --top-k 50 --top-p 0.9 --min-p 0.01 --temperature 0.8")
    asked = {"class_name": "disc", "guidance": 2, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "temperature": 0.8}
    assert one_class["sampling"] == asked


def test_data_commands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    info = svq(f"data info {folder} --image-size 16 --sheet sheet.png")
    assert (info["count"], info["classes"]) == (64, {"box": 32, "disc": 32})
    assert Path("sheet.png").stat().st_size > 1000
    assert svq(f"data import {folder} --image-size 16")["fingerprint"] == info["fingerprint"]
    packed = svq(f"data pack {folder} --out p.rec")
    assert (packed["count"], packed["shards"], packed["skipped"]) == (64, 2, 0)
    assert svq("data verify p.rec") == {"records": 64, "problems": []}
    # One that is too large to be prepared is read as it is needed.
    prepared = svq("eval recon --data p.rec --tokenizer openmoji-32 --split all")
    written = svq("tokenize --data p.rec --tokenizer openmoji-32 --out prepared.safetensors")
    monkeypatch.setattr(source, "PREPARED_BYTES", 0)
    monkeypatch.setenv("SVQ_CACHE", str(tmp_path / "cache"))
    read = svq("eval recon --data p.rec --tokenizer openmoji-32 --split all")
    assert read["psnr"] == pytest.approx(prepared["psnr"], abs=1e-4)
    assert read["data"]["count"] == 64
    assert svq("eval recon --data p.rec --tokenizer openmoji-32 --split train --n 5")["data"]["count"] == 5
    assert svq("eval codebook --data p.rec --tokenizer openmoji-32")["information"]
    assert svq("tokenize --data p.rec --tokenizer openmoji-32 --out read.safetensors")["count"] == written["count"]
    sentences = [sorted(map(tuple, load_codes(Path(f"{n}.safetensors")).codes.tolist())) for n in ("prepared", "read")]
    assert sentences[0] == sentences[1]
    assert not list((tmp_path / "cache").glob("datasets/*"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert svq("data import p.rec --image-size 16")["fingerprint"] == info["fingerprint"]
    small = "--set model.image_size=16 --set model.tokens=4 --set model.looks=2 --set train.evaluation_images=4"
    trained = svq(f"tokenizer train --data p.rec --loader torch --images 64 --batch-size 32 {small} --out streamed")
    assert trained["data"] == packed["fingerprint"]
    again = svq("data info p.rec --image-size 16 --sheet again.png")
    assert (again["count"], again["classes"], again["shorter_side"]) == (64, {"box": 32, "disc": 32}, [24, 24, 24])
    assert Path("again.png").stat().st_size > 1000
    Path("l.csv").write_text("photo,what\ndisc/00.png,a disc\nbox/00.png,a box\ngone.png,\n")
    command = f"data pack l.csv --root {folder} --column caption=what --layout captions --shard-size 1 --out l.rec"
    pairs = svq(f"{command} --max-broken 1 --encode jpeg --quality 80 --resize 20")
    assert (pairs["count"], pairs["shards"], pairs["skipped"]) == (2, 2, 1)
    assert svq("data info l.rec")["captions"] == {"count": 2, "words": 2.0, "most_words": 2}
    rec = Path("p-val-00000.rec")
    rec.write_bytes(rec.read_bytes()[:-8])
    result = CliRunner().invoke(app, ["data", "verify", "p.json"])
    assert result.exit_code == 2
    assert "p-val-00000.rec has" in result.output


def test_the_doctor_finds_this_machine_sound() -> None:
    checks = {check["name"]: check for check in svq("doctor")["checks"]}
    assert checks["packages"]["state"] == "ok"
    assert checks["device"]["state"] == "ok"
    assert "GFLOP/s" in checks["matrix products"]["text"]
