"""Cropping, scaling and the conversions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svq.data.entries import in_validation
from svq.data.imageset import ImageSet, fit
from svq.pixels import to_float, to_uint8


def test_the_centre_is_kept() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert (fit(Image.fromarray(pixels), 10) == 255).all()


@pytest.mark.parametrize("size", [(64, 65), (65, 64), (64, 91), (67, 64)])
def test_a_picture_that_has_its_size_keeps_its_pixels(size: tuple[int, int]) -> None:
    """Its central square lies at whole pixels; half a pixel beside them, each would be the mean of two."""
    image = Image.effect_noise(size, 100).convert("RGB")
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    wanted = np.asarray(image.crop((left, top, left + 64, top + 64))).transpose(2, 0, 1)
    np.testing.assert_array_equal(fit(image, 64), wanted)


def test_transparency_becomes_white() -> None:
    assert (fit(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 8) == 255).all()
    palette = Image.new("P", (8, 8))
    palette.info["transparency"] = 0
    assert (fit(palette, 8) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "1", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert fit(Image.new(mode, (9, 9)), 4).shape == (3, 4, 4)


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    fitted = fit(Image.fromarray(ramp), 8)
    np.testing.assert_allclose(fitted[0].ravel(), ramp.ravel() / 257, atol=1)


def test_of_sixteen_bits_of_grey_the_clear_shade_alone_becomes_white(tmp_path: Path) -> None:
    grey = np.full((8, 8), 20000, np.uint16)
    grey[0] = 5
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=5)
    fitted = fit(Image.open(tmp_path / "a.png"), 8)
    assert (fitted[:, 0] == 255).all()
    assert (fitted[:, 1:] == 20000 // 257).all()


def test_a_tenth_is_held_out() -> None:
    assert abs(sum(in_validation(str(i).encode()) for i in range(10_000)) - 1000) < 100


def test_bytes_survive_the_way_to_float_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_float(values)
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(to_uint8(floats), values)
    assert torch.equal(to_uint8(torch.tensor([-3.0, 3.0])), torch.tensor([0, 255], dtype=torch.uint8))


def test_a_sample_of_a_split_is_the_same_each_time(pictures: ImageSet) -> None:
    assert pictures.sample("train", 10).tolist() == pictures.sample("train", 10).tolist()
    assert set(pictures.sample("train", 10)) <= set(pictures.indices("train"))
    assert sorted(pictures.sample("all", 1000)) == list(range(64))
    few = pictures.sample("train", 16)  # of a folder, whose pictures are sorted by class
    assert few.tolist() != sorted(few)
    assert set(pictures.labels[few]) == {0, 1}
