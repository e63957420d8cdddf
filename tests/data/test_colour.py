"""Colours: the numbers of a picture with a profile of its own are not taken for sRGB's."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from svq.data.colour import to_rgb
from svq.data.encoding import decode, encode
from svq.data.imageset import fit


def profile(exchanged: bool) -> bytes:
    """sRGB's profile under another name; or one where what sRGB calls red is blue."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if exchanged:
        data = data.replace(b"rXYZ", b"tmp-").replace(b"bXYZ", b"rXYZ").replace(b"tmp-", b"bXYZ")
        data = data.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    return data


def coded(image: Image.Image, kind: str, icc: bytes) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=icc, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_of_the_profile(kind: str, mode: str) -> None:
    if mode != "RGB" and kind == "JPEG":
        pytest.skip("JPEG has no such mode")
    image = Image.new("RGB", (16, 16), (230, 30, 20)).convert(mode)
    shown = {changed: fit(decode(coded(image, kind, profile(changed))), 8)[:, 0, 0] for changed in (False, True)}
    np.testing.assert_allclose(shown[False], (230, 30, 20), atol=6)
    np.testing.assert_allclose(shown[True], (20, 30, 230), atol=6)


def test_transparency_survives_a_profile() -> None:
    image = Image.new("RGBA", (4, 4), (230, 30, 20, 0))
    image.putpixel((0, 0), (230, 30, 20, 255))
    image.info["icc_profile"] = profile(True)
    assert to_rgb(image).getpixel((3, 3)) == (255, 255, 255)
    np.testing.assert_allclose(to_rgb(image).getpixel((0, 0)), (20, 30, 230), atol=2)


def test_a_packed_picture_has_the_colours_that_every_decoder_shows() -> None:
    image = Image.new("RGB", (16, 16), (230, 30, 20))
    plain = coded(image, "JPEG", profile(False))
    assert encode(plain, "keep", 95, None) == plain
    stored = Image.open(io.BytesIO(encode(coded(image, "JPEG", profile(True)), "keep", 95, None)))
    assert "icc_profile" not in stored.info
    np.testing.assert_allclose(stored.getpixel((8, 8)), (20, 30, 230), atol=6)


@pytest.mark.parametrize("icc", [b"", b"no profile", profile(True)[:-400]])
def test_a_profile_that_is_none_changes_nothing(icc: bytes) -> None:
    image = Image.new("L", (4, 4), 100)
    image.info["icc_profile"] = icc
    assert to_rgb(image).getpixel((0, 0)) == (100, 100, 100)
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.info["icc_profile"] = icc[:200]
    assert to_rgb(image).getpixel((0, 0)) == (1, 2, 3)
