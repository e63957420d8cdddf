"""Which bytes are kept when a picture is packed."""

import io

import numpy as np
import pytest
from PIL import Image

from svq.data.encoding import decode, encode

ORIENTATION = 0x0112


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
