"""Eight pictures: a nano tokenizer and a nano generator must be able to learn them by heart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from svq.data import ImageSet, open_images
from svq.evaluation.reconstruction import psnr
from svq.generator import Generator
from svq.generator.presets import PRESETS as GENERATORS
from svq.generator.task import GeneratorTask
from svq.pixels import to_float
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.presets import PRESETS as TOKENIZERS
from svq.tokenizer.task import TokenizerTask
from svq.tokenizer.tokenize import tokenize
from svq.training.runs import train_run
from svq.training.settings import resolve


@pytest.fixture
def eight() -> ImageSet:
    """Eight emoji, to train on and once more to look at."""
    images = open_images("openmoji", 32)
    names = ("cat", "red heart", "rocket", "pizza", "France", "ten o’clock", "umbrella", "grinning face")
    chosen = np.array([images.captions.index(name) for name in names] * 2)
    return replace(
        images,
        images=images.images[chosen],
        labels=images.labels[chosen],
        captions=tuple(images.captions[i] for i in chosen),
        keys=tuple(str(i) for i in range(16)),
        validation=np.arange(16) >= 8,
        fingerprint="eight",
    )


def test_eight_pictures_are_learnt_by_heart(eight: ImageSet, tmp_path: Path) -> None:
    first = resolve(
        TOKENIZERS["nano"](),
        assignments=["train.images=1600", "train.batch_size=8", "train.flip=false", "train.evaluate_every=1600"],
    )
    stage_one = TokenizerTask(first.model, first.train, eight)
    train_run("tokenizer", lambda: stage_one, first.train, tmp_path / "tokenizer")
    tokenizer = StyledTokenizer.from_pretrained(tmp_path / "tokenizer")
    originals = to_float(eight.batch(np.arange(8)))
    codes = tokenizer.encode(originals)
    quality = psnr(tokenizer.decode(codes), originals)
    assert quality.min() > 25, quality
    assert len(codes.unique(dim=0)) == 8

    second = resolve(
        GENERATORS["nano"](),
        assignments=["train.images=3200", "train.batch_size=8", "train.evaluate_every=3200"],
    )
    task = GeneratorTask(second.model, second.train, tokenize(tokenizer, eight), tokenizer)
    train_run("generator", lambda: task, second.train, tmp_path / "generator")
    generator = Generator.from_pretrained(tmp_path / "generator")
    written = generator.sample(64, seed=0)
    known = {tuple(row) for row in codes.tolist()}
    exact = [tuple(row) for row in written.tolist() if tuple(row) in known]
    assert len(exact) >= 60
    assert set(exact) == known
