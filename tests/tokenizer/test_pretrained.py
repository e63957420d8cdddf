"""The tokenizers that come with svq."""

import json
import re
from pathlib import Path

import pytest
import torch

from svq.cli.last import SHIPPED
from svq.data import open_images
from svq.evaluation.reconstruction import reconstruction_quality
from svq.pixels import to_float
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.export import export
from svq.tokenizer.model import PRETRAINED
from svq.training.checkpoint import fingerprint, verify

NAMES = sorted(p.name for p in PRETRAINED.iterdir() if p.is_dir())


def test_the_default_is_there_and_all_are_small() -> None:
    assert "openmoji-32" in NAMES
    assert sum(p.stat().st_size for p in PRETRAINED.rglob("*")) < 16 * 2**20


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_enough_for_a_package(name: str) -> None:
    assert sum(p.stat().st_size for p in (PRETRAINED / name).iterdir()) < 15e6


@pytest.mark.parametrize("name", NAMES)
def test_it_is_whole_and_says_where_it_comes_from(name: str) -> None:
    folder = PRETRAINED / name
    verify(folder)
    run = json.loads((folder / "run.json").read_text())
    assert run["identity"].keys() >= {"model", "train", "data"}
    assert run["versions"]["torch"]
    card = (folder / "card.md").read_text()
    assert run["identity"]["data"] in card
    assert "svq tokenizer train" in card
    assert "CC BY-SA 4.0" in card


@pytest.mark.parametrize("name", NAMES)
def test_it_paints_held_out_emoji_as_well_as_its_card_says(name: str) -> None:
    tokenizer = StyledTokenizer.from_pretrained(name)
    images = open_images("openmoji", tokenizer.config.image_size)
    card = (PRETRAINED / name / "card.md").read_text()
    said = re.search(r"PSNR (\d\d\.\d\d) dB", card)
    assert said is not None
    originals = images.batch(images.indices("val"))
    codes = torch.cat([tokenizer.encode(to_float(part)) for part in originals.split(64)])
    found = reconstruction_quality(tokenizer.decode, codes, originals).psnr
    assert found > 20
    if images.fingerprint not in card:
        pytest.skip("another release of OpenMoji, or of what draws it: other pictures than the card's")
    assert found == pytest.approx(float(said[1]), abs=0.02)


def test_the_command_line_knows_them_all() -> None:
    assert sorted(SHIPPED["tokenizer"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_exported_again(name: str, tmp_path: Path) -> None:
    copy = export(Path(name), tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(StyledTokenizer.from_pretrained(name))
    for file in ("run.json", "log.jsonl"):
        assert (tmp_path / "copy" / file).read_bytes() == (PRETRAINED / name / file).read_bytes()


def test_a_folder_of_the_same_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = StyledTokenizer.from_pretrained("openmoji-32").config.model_copy(update={"plain_layers": 0})
    StyledTokenizer(small).save_pretrained("openmoji-32")
    assert StyledTokenizer.from_pretrained("openmoji-32").config.plain_layers == 0
