"""Painted codes are the tokenizer's pictures, and no file that svq did not write is lost."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svq.data import ImageSet, open_images
from svq.data.codes import Codes
from svq.errors import CheckpointError, UserError
from svq.pixels import to_uint8
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.painting import new_folder, paint_codes, write_pictures
from svq.tokenizer.tokenize import tokenize
from svq.training.checkpoint import fingerprint


@pytest.fixture
def tokenizer(config: TokenizerConfig) -> StyledTokenizer:
    torch.manual_seed(0)
    return StyledTokenizer(config).eval()


@pytest.fixture
def sentences(tokenizer: StyledTokenizer, pictures: ImageSet) -> Codes:
    return tokenize(tokenizer, pictures)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_painted_files_are_the_tokenizers_pictures(
    tokenizer: StyledTokenizer, sentences: Codes, tmp_path: Path
) -> None:
    record = paint_codes(tokenizer, sentences, tmp_path / "out", first=3, batch_size=4)
    assert names(tmp_path / "out") == ["grid.png", "images", "samples.json"]
    assert names(tmp_path / "out" / "images") == [f"{i:06d}.png" for i in range(len(sentences))]
    codes = torch.from_numpy(sentences.codes[:, :3].astype(np.int64))
    for i in (0, 5, 10):
        start = i // 4 * 4
        expected = to_uint8(tokenizer.decode(codes[start : start + 4]))[i - start]
        written = np.asarray(Image.open(tmp_path / "out" / "images" / f"{i:06d}.png")).transpose(2, 0, 1)
        np.testing.assert_array_equal(written, expected)
    assert record == json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (record["codes"], record["count"], record["data"]) == (3, len(sentences), sentences.data)
    assert record["tokenizer"]["fingerprint"] == fingerprint(tokenizer)
    assert len(open_images(str(tmp_path / "out"), 16)) == len(sentences)  # the grid is none of them


def test_no_more_pictures_are_held_than_a_few_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svq.tokenizer.painting.SHOWN", 3)
    held: list[weakref.ref[np.ndarray]] = []
    most = 0

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(20):
            pixels = np.zeros((2, 3, 8, 8), np.uint8)
            held.append(weakref.ref(pixels))
            yield torch.from_numpy(pixels)

    def advance(_: int) -> None:
        nonlocal most
        most = max(most, sum(one() is not None for one in held))

    write_pictures(tmp_path, batches(), {}, advance)
    assert len(list((tmp_path / "images").iterdir())) == 40
    assert most <= 5


def test_more_codes_than_there_are_cannot_be_painted(
    tokenizer: StyledTokenizer, sentences: Codes, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"the first 100 codes .* and each has {sentences.codes.shape[1]}"):
        paint_codes(tokenizer, sentences, tmp_path / "out", first=100)
    assert not (tmp_path / "out").exists()


def test_none_of_the_pictures_of_before_is_left_among_the_new(
    tokenizer: StyledTokenizer, sentences: Codes, tmp_path: Path
) -> None:
    paint_codes(tokenizer, sentences, tmp_path / "out")
    (tmp_path / "out" / "images" / "000099.png").write_bytes(b"of a longer result")
    paint_codes(tokenizer, sentences, tmp_path / "out")
    assert names(tmp_path / "out" / "images") == [f"{i:06d}.png" for i in range(len(sentences))]
    assert names(tmp_path) == ["out"]


def test_codes_of_another_tokenizer_are_refused(
    tokenizer: StyledTokenizer, sentences: Codes, config: TokenizerConfig, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="another tokenizer"):
        paint_codes(StyledTokenizer(config).eval(), sentences, tmp_path / "out")
    assert not names(tmp_path)


@pytest.mark.parametrize("theirs", ["images/holiday.jpg", "000000.png", "grid.png", "samples.json"])
def test_a_folder_that_svq_did_not_write_is_refused(theirs: str, tmp_path: Path) -> None:
    (tmp_path / "out" / theirs).parent.mkdir(parents=True)
    (tmp_path / "out" / theirs).write_text("keep me")
    with pytest.raises(UserError, match="holds other files"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / theirs).read_text() == "keep me"


def test_a_foreign_file_among_the_pictures_is_kept(
    tokenizer: StyledTokenizer, sentences: Codes, tmp_path: Path
) -> None:
    paint_codes(tokenizer, sentences, tmp_path / "out")
    (tmp_path / "out" / "images" / "holiday.jpg").write_text("keep me")
    with pytest.raises(UserError, match="holds other files"):
        paint_codes(tokenizer, sentences, tmp_path / "out")
    assert (tmp_path / "out" / "images" / "holiday.jpg").read_text() == "keep me"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for content in ("one", "two"):
        with new_folder(tmp_path / "link") as work:
            (work / "images").mkdir()
            (work / "samples.json").write_text(content)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "samples.json").read_text() == "two"
    assert names(tmp_path) == ["link", "there"]


def test_what_fails_half_way_leaves_the_folder_as_it_was(
    tokenizer: StyledTokenizer, sentences: Codes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint_codes(tokenizer, sentences, tmp_path / "out")
    monkeypatch.setattr(StyledTokenizer, "decode", lambda *_: torch.zeros(1, 1))  # no pictures
    with pytest.raises(ValueError, match="axes"):
        paint_codes(tokenizer, sentences, tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert len(names(tmp_path / "out" / "images")) == len(sentences)


def test_what_others_write_meanwhile_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    def fill() -> None:
        with new_folder(tmp_path / "out") as work:
            (tmp_path / "out" / "fid.json").write_text("{}")
            (work / "grid.png").write_bytes(b"new")

    with pytest.raises(UserError, match="others wrote meanwhile; the new pictures are in"):
        fill()
    assert names(tmp_path / "out") == ["fid.json"]
    (kept,) = (p for p in tmp_path.iterdir() if p.name != "out")
    assert names(kept) == ["grid.png"]
