"""The benchmarks run: all have help, and the comparison of decoders does what it says at a toy's size."""

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import ablations, copies, naming, quantizers, rate_distortion, residual_kmeans, trials
from benchmarks.rate_distortion import MODELS
from benchmarks.trials import nearest, seconds_of, teach_null
from svq.data import ImageSet, open_images
from svq.pixels import to_float, to_uint8
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.task import TokenizerTask
from tests.steps import draws

ROOT = Path(__file__).parent.parent
SHARED = {"__init__", "baselines", "trials"}
PROGRAMS = sorted({file.stem for file in (ROOT / "benchmarks").glob("*.py")} - SHARED)


TINY = TokenizerConfig(
    image_size=16, patch_size=8, encoder_width=32, encoder_depth=1, encoder_heads=2, decoder_width=32,
    decoder_heads=2, plain_layers=1, mlp_ratio=2, looks=6, ahead=3,
)  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_says_what_it_does(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        program.main()
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", MODELS)
def test_a_prefix_is_what_comes_before_the_rest(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name](TINY)
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    latents = model.latents(images)
    assert latents.shape == (4, 36, TINY.latent_dim)
    keep = torch.tensor([1, 7, 20, 36])
    painted = model.decoder(latents, keep)
    assert painted.shape == images.shape
    for i, k in enumerate(keep.tolist()):
        torch.testing.assert_close(painted[i : i + 1], model.decoder(latents[i : i + 1, :k]), rtol=1e-4, atol=1e-5)
    model(images, quantized=False).images.sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None and "null" not in n and "std" not in n]
    assert not [n for n in still if not n.startswith("quantizer")]


@pytest.mark.parametrize("name", MODELS)
def test_codes_of_each_can_be_searched_for(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name](TINY).eval()
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    before, after = (
        (model.decode(model.encode(images, refine)) - images).square().mean((1, 2, 3)) for refine in (0, 2)
    )
    assert (after <= before * (1 + 1e-5)).all()
    assert after.mean() < 0.99 * before.mean()


@pytest.mark.parametrize("name", MODELS)
def test_what_stands_for_a_missing_code_is_taught_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "NULL_STEPS", 20)
    torch.manual_seed(0)
    model = MODELS[name](TINY).eval()
    torch.nn.init.normal_(model.decoder.null)  # far from anything that was trained
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    codes = model.encode(images)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    whole, prefix = (model.decode(codes[:, :k]) for k in (36, 2))
    teach_null(model, images)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["decoder.null"]
    assert torch.equal(model.encode(images), codes)
    assert torch.equal(model.decode(codes), whole)
    error, error_before = ((picture - images).square().mean() for picture in (model.decode(codes[:, :2]), prefix))
    assert error < 0.9 * error_before


def test_a_quantizer_is_measured_by_the_whole_chain(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["quantizers", "--data", str(folder), "--out", str(tmp_path), "--kinds", "kmeans", "--starts", "late"]
    small = ["--images", "160", "--sequences", "64", "--set", "model.quantizer.codebook_size=32"]
    monkeypatch.setattr(sys, "argv", [*words, *small])
    monkeypatch.setattr(quantizers, "SAMPLES", 64)
    quantizers.main()
    found = json.loads((tmp_path / "kmeans-late-0" / "result.json").read_text())
    assert found["settings"]["train"]["continuous_share"] == 0.8
    assert found["codes"] == 32
    assert 0.5 < found["used"] <= 1 < found["perplexity"] <= 32
    assert 0 < found["nats"] < 2 * math.log(32)
    assert found["frechet_of_samples"] > 0


def test_a_comparison_is_measured_once_and_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["rate_distortion", "--data", str(folder), "--models", "raster", "--images", "64", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    rate_distortion.main()
    first = json.loads((tmp_path / "raster-0" / "result.json").read_text())
    assert first["psnr"].keys() == {str(k) for k in range(1, 37)}
    assert first["precision"] == "fp32" or torch.cuda.is_available()
    assert first["settings"]["train"]["images"] == first["images"] == 64
    assert first["settings"]["model"]["looks"] == 0  # whatever the preset says: a grid is encoded at once
    assert first["seconds"] > 0
    rate_distortion.main()
    assert json.loads((tmp_path / "raster-0" / "result.json").read_text()) == first


def test_the_time_of_a_run_is_that_of_all_its_starts(tmp_path: Path) -> None:
    records = [{"images": 10, "seconds": 5.0}, {"images": 20, "seconds": 9.0}, {"images": 20, "evaluation": {}}]
    records += [{"images": 30, "seconds": 2.5}, {"images": 40, "seconds": 4.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert seconds_of(tmp_path) == 13.0


def test_what_the_ablations_take_away_is_gone() -> None:
    with ablations.PATCHES["decoder-start"]():
        plain = StyledTokenizer(TINY)
    usual = StyledTokenizer(TINY)
    assert usual.decoder.styled[0].style1.weight.abs().max() == 0 < plain.decoder.styled[0].style1.weight.std()
    ends = [model.decoder.styled[0].attention.out.weight.std() for model in (usual, plain)]
    assert ends[1] > 3 * ends[0]
    assert plain.encoder.layers[0].attention.out.weight.std() < 0.8 * ends[1]  # the encoder's stays as it is
    task = SimpleNamespace(model=SimpleNamespace(config=TINY), config=SimpleNamespace(truncated_share=1.0))
    with ablations.PATCHES["short-prefixes"]():
        keep = TokenizerTask._keep(task, draws(20_000))  # type: ignore[arg-type]
    assert abs(keep.float().mean() - 18) < 0.5


def test_residual_kmeans_comes_nearer_with_each_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["residual_kmeans", "--size=16", "--codes=3", "--codebook-size=4", "--copies=1", "--iterations=5"]
    monkeypatch.setattr(sys, "argv", [*words, "--data", str(folder), "--out", str(tmp_path)])
    residual_kmeans.main()
    result = json.loads((tmp_path / "residual-kmeans-0.json").read_text())
    by_k = list(result["psnr"]["all"].values())
    assert by_k[0] < by_k[1] < by_k[2]
    assert result["pictures"]["no twin at 25 dB"] <= result["pictures"]["no twin at 30 dB"] <= result["pictures"]["all"]


def test_a_twin_is_found() -> None:
    pictures = torch.rand(5, 3, 8, 8) * 2 - 1
    others = torch.cat([torch.rand(3, 3, 8, 8) * 2 - 1, pictures[2:3] + 0.02])
    db, which = nearest(pictures, others)
    assert which[2] == 3
    assert db[2] == pytest.approx(40, abs=0.1)  # an error of 0.02 in a range of 2
    assert db[[0, 1, 3, 4]].max() < 20


def test_copied_sentences_are_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(TINY).eval()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    images = open_images(str(folder), 16)
    copied = tokenizer.decode(tokenizer.encode(to_float(images.some("train", 6))))
    (tmp_path / "samples").mkdir()
    for i, picture in enumerate(to_uint8(torch.cat([copied, torch.rand(2, 3, 16, 16) * 2 - 1]))):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "samples" / f"{i}.png")
    words = ["copies", "--data", str(folder), "--samples", str(tmp_path / "samples")]
    monkeypatch.setattr(sys, "argv", [*words, "--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path)])
    copies.main()
    result = json.loads((tmp_path / "copies.json").read_text())
    assert (result["samples"]["count"], result["samples"]["40 dB or more"]) == (8, 0.75)
    assert result["held out"]["count"] == images.count("val")
    assert result["held out"]["40 dB or more"] < 1  # compared with training, not with themselves
    with Image.open(tmp_path / "copies.png") as grid:
        assert grid.width > 16 * 64


def test_names_that_are_right_are_counted(
    pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    StyledTokenizer(TINY).save_pretrained(tmp_path / "tokenizer")
    keys = tuple(f"1F4{i:02d}" for i in range(len(pictures) - 1))
    toned = replace(
        pictures,
        keys=(f"{keys[0]}-1F3FB", *keys),  # the first two are of one family, and the second is the plain one
        captions=("toned", *(f"name {i}" for i in range(len(keys)))),
        validation=np.ones(len(pictures), bool),
    )
    monkeypatch.setattr(naming, "open_images", lambda *_: toned)
    words = ["naming", "--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    naming.main()
    names = (tmp_path / "names.txt").read_text().splitlines()
    assert sorted(names) == sorted(f"name {i}" for i in range(len(keys)))
    sheets = [np.asarray(Image.open(tmp_path / f"{sheet}.png")) for sheet in ("codes", "originals")]
    assert sheets[0].shape == sheets[1].shape == (8 * 148, 8 * 148, 3)

    # Which picture has which number is to be seen on the sheet of the originals only.
    cells = [sheets[1][n // 8 * 148 + 20 :, n % 8 * 148 :][:128, :128] for n in range(len(names))]
    large = [
        np.asarray(Image.fromarray(p.transpose(1, 2, 0)).resize((128, 128), Image.Resampling.BICUBIC))
        for p in toned.images
    ]
    told = [next(toned.captions[i] for i, p in enumerate(large) if i and (p == cell).all()) for cell in cells]
    answers = [f"{n} {name}" for n, name in enumerate(told, start=1)]
    answers[3], answers[5] = "4 another", ""
    (tmp_path / "answers.txt").write_text("\n".join(answers))
    monkeypatch.setattr(sys, "argv", [*words, "--answers", str(tmp_path / "answers.txt")])
    naming.main()
    count = len(names)
    assert json.loads(capsys.readouterr().out) == {"pictures": count, "names": count, "named": count - 2}
    missed = json.loads((tmp_path / "answers.json").read_text())["missed"]
    assert missed == {"4": {"is": told[3], "told": "another"}, "6": {"is": told[5], "told": None}}
