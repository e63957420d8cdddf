"""Colours: the numbers of a picture with a profile of its own are not taken for sRGB's."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from svq.data.colour import to_rgb
from svq.data.encoding import decode, encode
from svq.data.imageset import fit
from svq.data.loaders import LoaderSettings, open_loader
from svq.data.packed import open_index
from svq.data.recordio import ImageRecord, pack_image, write_record


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


def grey_profile() -> bytes:
    """A profile of grey whose numbers are proportional to light: a curve, a white point, a name, and no more."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 7) + b"linear\0" + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("mode", ["L", "LA", "L with a clear shade"])
def test_grey_and_its_transparency_survive_a_profile(mode: str) -> None:
    image = Image.new("L", (8, 8), 100)
    image.paste(0, (4, 0, 8, 8))
    if mode == "LA":
        image.putalpha(image.point(lambda v: 255 * (v > 0)))
    if mode == "L with a clear shade":
        image.info["transparency"] = 0
    image.info["icc_profile"] = grey_profile()
    shown = to_rgb(image)
    np.testing.assert_allclose(shown.getpixel((0, 0)), (168, 168, 168), atol=2)  # a light of 100 / 255
    assert shown.getpixel((7, 7)) == ((0, 0, 0) if mode == "L" else (255, 255, 255))


def test_transparency_survives_a_profile() -> None:
    image = Image.new("RGBA", (4, 4), (230, 30, 20, 0))
    image.putpixel((0, 0), (230, 30, 20, 255))
    image.info["icc_profile"] = profile(True)
    assert to_rgb(image).getpixel((3, 3)) == (255, 255, 255)
    np.testing.assert_allclose(to_rgb(image).getpixel((0, 0)), (20, 30, 230), atol=2)


def test_a_profile_that_does_not_fit_is_neither_heeded_nor_kept() -> None:
    buffer = io.BytesIO()
    Image.new("LA", (8, 8), (100, 255)).save(buffer, "PNG", icc_profile=profile(True))
    stored = Image.open(io.BytesIO(encode(buffer.getvalue(), "keep", 95, None)))
    assert stored.getpixel((0, 0)) == (100, 100, 100)
    assert "icc_profile" not in stored.info


def test_srgb_under_another_name_is_srgb() -> None:
    renamed = profile(False).replace("sRGB".encode("utf-16-be"), "c2ci".encode("utf-16-be"))
    data = coded(Image.new("RGB", (16, 16), (230, 30, 20)), "JPEG", renamed)
    assert encode(data, "keep", 95, None) == data


def test_a_reader_of_its_own_shows_them_of_a_set_that_was_packed_elsewhere(tmp_path: Path) -> None:
    image, offsets = Image.new("RGB", (40, 40), (230, 30, 20)), []
    with open(tmp_path / "a.rec", "wb") as file:
        for i, exchanged in enumerate((False, True)):
            data = coded(image, "JPEG", profile(exchanged))
            offsets.append(write_record(file, pack_image(ImageRecord(i, (float(i),), data))))
    (tmp_path / "a.idx").write_text("".join(f"{i}\t{offset}\n" for i, offset in enumerate(offsets)))
    settings = LoaderSettings(image_size=32, batch_size=2)
    loader = open_loader("torch", open_index(tmp_path / "a.rec"), settings, torch.device("cpu"))
    batch = next(loader)
    loader.close()
    shown = dict(zip(batch.labels.tolist(), batch.images[:, :, 16, 16].numpy(), strict=True))
    np.testing.assert_allclose(shown[0], (230, 30, 20), atol=6)
    np.testing.assert_allclose(shown[1], (20, 30, 230), atol=6)


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
