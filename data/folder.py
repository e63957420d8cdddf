"""The folder source: pictures in nested folders; a picture's class is the name of the folder it lies in.

What is special: nothing is decoded before its header has shown that it is of a bearable size, and a file
that cannot be read is skipped and named, not fatal.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from svq.data.imageset import Advance, ImageSet, Item, cached, in_validation, nothing
from svq.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6


def decode(data: bytes) -> Image.Image:
    """Decode one picture, upright, after a look at its header.

    Raises:
        DataError: it is damaged, of an unknown format, or too large.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{len(data)} bytes, more than the {MAX_BYTES} allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are checked here
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS} allowed")
            image.load()
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("cannot be decoded: no JPEG, PNG or WebP") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise DataError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def picture_files(path: Path) -> list[Path]:
    """Return the picture files below a folder, sorted.

    Raises:
        DataError: the folder does not exist or holds none.
    """
    if not path.is_dir():
        raise DataError(f"no such folder: {path}")
    files = sorted(p for p in _walk(path) if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"no picture below {path}; expected files ending in {', '.join(sorted(SUFFIXES))}")
    return files


def _walk(root: Path) -> Iterator[Path]:
    """Yield all files below a folder, through links to folders too, each folder once."""
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (Path(folder) / name for name in names)


def native_size(path: Path) -> int:
    """Return the shorter side of the first readable picture below a folder.

    Raises:
        DataError: there is none.
    """
    for file in picture_files(path):
        try:
            with Image.open(file, formats=FORMATS) as image:
                return min(image.size)
        except (OSError, Image.DecompressionBombError):
            continue
    raise DataError(f"no readable picture below {path}")


def open_folder(path: Path, size: int, advance: Advance = nothing) -> ImageSet:
    """Return the pictures below a folder at `size` pixels.

    The class is the name of the folder that a picture lies in, if that is not the root itself. A text
    file of the same name (``cat.jpg``, ``cat.txt``) is the caption.

    Raises:
        DataError: the folder does not exist or holds no readable picture.
    """
    files = picture_files(path)
    listing = hashlib.sha256()
    for file in files:
        for part in (file, file.with_suffix(".txt")):
            if part.exists():
                stat = part.stat()
                listing.update(os.fsencode(part.relative_to(path)))
                listing.update(f"|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return cached(str(path), f"folder|{listing.hexdigest()}", size, _items(path, files), advance)


def _items(root: Path, files: list[Path]) -> Iterator[Item]:
    for file in files:
        key = os.fsencode(file.relative_to(root)).decode(errors="backslashreplace")
        try:
            # The size comes first: a huge file is not even read.
            if file.stat().st_size > MAX_BYTES:
                raise DataError(f"{file.stat().st_size} bytes, more than the {MAX_BYTES} allowed")
            content = file.read_bytes()
            image = decode(content)
            text = file.with_suffix(".txt")
            caption = text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
        except (DataError, OSError) as error:
            yield Item(key, problem=str(error))
            continue
        yield Item(
            key=key,
            image=image,
            label=file.parent.name if file.parent != root else None,
            caption=caption,
            validation=in_validation(content),
        )
