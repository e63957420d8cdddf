"""Codes from a stream of files are those of the prepared set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svq.data import ImageSet
from svq.data.sources import list_pictures
from svq.errors import DataError
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.streaming import tokenize_stream
from svq.tokenizer.tokenize import tokenize


@pytest.fixture
def tokenizer(config: TokenizerConfig) -> StyledTokenizer:
    torch.manual_seed(0)
    return StyledTokenizer(config).eval()


@pytest.mark.parametrize(("batch_size", "refine"), [(5, 0), (64, 0), (64, 3)])
def test_a_stream_gives_the_codes_of_the_prepared_set(
    tokenizer: StyledTokenizer, folder: Path, pictures: ImageSet, batch_size: int, refine: int
) -> None:
    prepared = tokenize(tokenizer, pictures, refine=refine)
    streamed, skipped = tokenize_stream(
        tokenizer, list_pictures(str(folder)), str(folder), batch_size=batch_size, refine=refine
    )
    assert prepared.refine == streamed.refine == refine
    assert not skipped
    np.testing.assert_array_equal(streamed.codes, prepared.codes)
    np.testing.assert_array_equal(streamed.labels, prepared.labels)
    np.testing.assert_array_equal(streamed.validation, prepared.validation)
    assert streamed.classes == prepared.classes
    assert streamed.tokenizer == prepared.tokenizer


def test_one_split_of_a_stream(tokenizer: StyledTokenizer, folder: Path, pictures: ImageSet) -> None:
    streamed, _ = tokenize_stream(tokenizer, list_pictures(str(folder)), "x", split="val")
    assert len(streamed) == len(pictures.indices("val"))
    assert streamed.validation.all()


def test_of_the_other_split_nothing_is_read(tokenizer: StyledTokenizer, folder: Path) -> None:
    wanted = next(iter(list_pictures(str(folder))))._replace(split="val")
    other = wanted._replace(place=("nowhere", "read all the same"), split="train")
    codes, skipped = tokenize_stream(tokenizer, [other, wanted, other], "x", split="val")
    assert (len(codes), skipped) == (1, [])


def test_what_cannot_be_read_is_named(tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    codes, skipped = tokenize_stream(tokenizer, list_pictures(str(tmp_path)), "x")
    assert len(codes) == 1
    assert len(skipped) == 1
    assert skipped[0].startswith("b.png: cannot be decoded")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no readable picture in split 'all' of x; the first problem: b\.png"):
        tokenize_stream(tokenizer, list_pictures(str(tmp_path)), "x")


def test_the_fingerprint_of_a_stream_is_that_of_its_content(tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    marks = []
    for colour in ("red", "red", "blue"):
        Image.new("RGB", (20, 20), colour).save(tmp_path / "a.png")
        marks.append(tokenize_stream(tokenizer, list_pictures(str(tmp_path)), "x")[0].data)
    assert marks[0] == marks[1] != marks[2]
