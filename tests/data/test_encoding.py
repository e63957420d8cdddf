"""Which bytes are kept when a picture is packed."""

import io
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from svq.data.encoding import decode, encode

ORIENTATION = 0x0112
LYING = {  # what each orientation's pictures were turned by
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def jpeg(exif: int | None, xmp: int | None) -> bytes:
    """A JPEG, 32 x 16, with an orientation in its Exif, its XMP, both or none."""
    image, block, buffer = Image.new("RGB", (32, 16), "red"), Image.Exif(), io.BytesIO()
    block[0x0131] = "a camera"
    if exif is not None:
        block[ORIENTATION] = exif
    image.save(buffer, "JPEG", exif=block, xmp=b'<rdf:Description tiff:Orientation="%d"/>' % xmp if xmp else b"")
    return buffer.getvalue()


@pytest.mark.parametrize(("exif", "xmp"), [(None, None), (6, None), (6, 6), (6, 8), (1, 6), (None, 1)])
def test_a_jpeg_that_only_its_exif_turns_is_kept(exif: int | None, xmp: int | None) -> None:
    data = jpeg(exif, xmp)
    assert encode(data, "keep", 90, None) == data


def test_a_jpeg_that_xmp_alone_turns_is_encoded_upright() -> None:
    data = jpeg(None, 6)
    stored = Image.open(io.BytesIO(encode(data, "keep", 90, None)))
    assert (stored.format, stored.size, stored.getexif().get(ORIENTATION)) == ("JPEG", (16, 32), None)
    np.testing.assert_allclose(np.asarray(stored), np.asarray(decode(data)), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_comes_upright(orientation: int, kind: str) -> None:
    upright = Image.fromarray(np.kron([[0, 90], [170, 255]], np.ones((16, 24))).astype(np.uint8)).convert("RGB")
    turned = upright.transpose(LYING[orientation]) if orientation > 1 else upright
    block, buffer = Image.Exif(), io.BytesIO()
    block[ORIENTATION] = orientation
    turned.save(buffer, kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_allclose(np.asarray(decode(buffer.getvalue())), np.asarray(upright), atol=8)


# Tags of cameras that Pillow reads, and cannot write again: a block of Exif with an orientation of 6 and each of them.
ODD = {
    "thumbnail": struct.pack("<HHI4s", 0x0201, 2, 4, b"abc\0"),
    "resolution": struct.pack("<HHI4s", 0x011A, 2, 4, b"72\0\0"),
    "bits": struct.pack("<HHIhh", 0x0102, 8, 1, -1, 0),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tags_of_a_camera_do_not_keep_its_picture_from_being_read(name: str) -> None:
    tags = sorted([struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0), ODD[name]])
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + struct.pack("<I", 0)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(buffer, "JPEG", exif=block)
    assert decode(buffer.getvalue()).size == (16, 32)
    stored = decode(encode(buffer.getvalue(), "png", 90, None))  # upright by now, and turned no more
    assert stored.size == (16, 32)


def test_what_pillow_warns_of_is_no_matter_and_other_warnings_are() -> None:
    """Also when several threads decode, whose `catch_warnings` would undo each other."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode, [jpeg(6, None)] * 64))
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", stacklevel=1)
