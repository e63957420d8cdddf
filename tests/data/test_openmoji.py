"""OpenMoji: drawings, names, and a split that keeps families together."""

import itertools
from pathlib import Path

import numpy as np

from svq.data import open_images
from svq.data.encoding import decode
from svq.data.imageset import fit
from svq.data.openmoji import SKIN_TONES, caption_of, class_of, draw
from svq.data.packing import pack
from svq.data.sources import list_pictures


def test_names_and_classes() -> None:
    assert caption_of("1F44B") == "waving hand"
    assert class_of("1F44B", "waving hand") == "hand"
    assert caption_of("1F408") == "cat"
    assert class_of("1F408", "cat") == "animal"
    assert class_of("1F1EB-1F1F7", "France") == "flag"
    assert caption_of("E000") == ""


def test_all_are_drawn_and_a_family_is_never_divided() -> None:
    images = open_images("openmoji", 16)
    assert len(images) == 4495
    assert images.skipped == ()
    assert 0.08 < images.validation.mean() < 0.13
    assert sum(bool(c) for c in images.captions) > 3900
    families: dict[str, set[bool]] = {}
    for key, held_out in zip(images.keys, images.validation, strict=True):
        plain = "-".join(c for c in key.split("-") if c not in SKIN_TONES)
        families.setdefault(plain, set()).add(bool(held_out))
    assert all(len(splits) == 1 for splits in families.values())
    heart = images.images[images.keys.index("2764")].astype(float)
    assert heart[:, 0, 0].tolist() == [255, 255, 255]  # on white
    assert heart[0, 8, 8] > 180 > 120 > heart[1, 8, 8]  # red
    assert np.unique(images.images.reshape(len(images), -1), axis=0).shape[0] > 4200


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
