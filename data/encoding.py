"""One encoded picture: decoded with care, and encoded anew where a packed set wants it so.

What is special: nothing is decoded before its header has shown that it is of a bearable size.
"""

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import simplejpeg
from PIL import Image, UnidentifiedImageError

from svq.data.colour import is_foreign, to_rgb
from svq.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
PNG = b"\x89PNG\r\n\x1a\n"  # what the file begins with
JPEG = b"\xff\xd8\xff"
START_OF_SCAN = 0xDA  # a marker of JPEG
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {  # by its values: what brings a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Encode = Literal["keep", "png", "jpeg"]


def decode(data: bytes) -> Image.Image:
    """Decode one picture, upright, after a look at its header.

    Raises:
        DataError: it is damaged, of an unknown format, or too large.
    """
    with _damage_named():
        return _upright(_load(data))


def look(data: bytes) -> Image.Image:
    """Look at the header of a picture, and decode nothing.

    Raises:
        DataError: it is damaged, of an unknown format, or too large.
    """
    with _damage_named():
        return _open(data)


def _open(data: bytes) -> Image.Image:
    if len(data) > MAX_BYTES:
        raise DataError(f"{len(data)} bytes, more than the {MAX_BYTES} allowed")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS} allowed")
    return image


def _load(data: bytes) -> Image.Image:
    """Decode one picture as it lies in its file."""
    image = _open(data)
    image.load()
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Return a picture as its Exif, or XMP, says that it was taken.

    Pillow's own `exif_transpose` writes the whole Exif block anew, and fails on tags that cameras get wrong.
    """
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


@contextmanager
def _damage_named() -> Iterator[None]:
    """Turn whatever Pillow raises on a damaged file into a DataError."""
    try:
        # Pillow warns of sizes that are checked here. For good: `warnings.catch_warnings` is not safe in threads.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("cannot be decoded: no JPEG, PNG or WebP") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise DataError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def encode(data: bytes, how: Encode, quality: int, resize: int | None) -> bytes:
    """Return a picture as a packed set should hold it.

    Kept are the bytes of what all decoders show alike: without any flaw, RGB or grey with 8 bits, in no colours but
    sRGB's, not moving, and upright, or a JPEG turned by its Exif, which all of them heed. Everything else that Pillow
    can decode becomes sRGB, upright and without transparency, and is encoded anew: as JPEG where it was one, else
    without loss.

    Args:
        data: the encoded picture.
        how: ``keep`` the bytes if that is possible, or encode as ``png`` or ``jpeg``.
        quality: of JPEG, 1 to 100.
        resize: the shorter side in pixels, to which larger pictures are scaled; smaller ones stay as they are.

    Raises:
        DataError: it is damaged, of an unknown format, or too large.
    """
    with _damage_named():
        image = _load(data)
        is_jpeg = image.format in ("JPEG", "MPO")  # the latter has more pictures behind the first
        orientation = image.getexif().get(ORIENTATION, 1)  # Pillow takes it from XMP where Exif has none
        upright = orientation == 1 or (is_jpeg and orientation == _exif_orientation(image))
        still = is_jpeg or not getattr(image, "is_animated", False)
        eight_bits = image.mode in ("L", "RGB") and "transparency" not in image.info
        plain = upright and still and eight_bits and not is_foreign(image)
        shrink = resize is not None and min(image.size) > resize
        if how == "keep" and plain and not shrink and is_flawless(data):
            return data
        image = to_rgb(_upright(image))
        if resize is not None and shrink:
            scale = resize / min(image.size)
            size = (max(resize, round(image.width * scale)), max(resize, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        if how == "jpeg" or (how == "keep" and is_jpeg):
            image.save(buffer, "JPEG", quality=quality)
        else:
            image.save(buffer, "PNG")
        return buffer.getvalue()


def _exif_orientation(image: Image.Image) -> int | None:
    """Return the orientation that the Exif block of a picture says, if any."""
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return exif.get(ORIENTATION)


def is_flawless(data: bytes) -> bool:
    """Say whether a picture that Pillow decodes has no flaw that it passes over and another decoder may die of."""
    if data.startswith(PNG):
        return _has_sound_chunks(data)
    if not data.startswith(JPEG):
        return True
    try:
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError:
        return False
    return find_scan(data) >= 0


def find_scan(data: bytes) -> int:
    """Return where the data of a JPEG's picture begin, behind all that is said of it.

    It is -1 if what lies before is no chain of segments from the first marker on (ITU-T T.81, annex B). The marker
    alone is not enough to go by: it may lie in a thumbnail, too.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and 0xC0 <= data[at + 1] <= 0xFE:
        if data[at + 1] == START_OF_SCAN:
            return at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return -1


def _has_sound_chunks(data: bytes) -> bool:
    """Say whether a PNG is a chain of chunks with right checksums that ends with the file (RFC 2083, section 3)."""
    at = len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return end == len(data)
        at = end
    return False
