"""OpenMoji: drawings, names, and a split that keeps families together."""

import numpy as np

from svq.data import open_images
from svq.data.openmoji import SKIN_TONES, caption_of, class_of


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
