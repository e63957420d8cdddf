"""The folder source: pictures in nested folders; a picture's class is the name of the folder it lies in.

What is special: a file that cannot be read is skipped and named, not fatal.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from PIL import Image

from svq.data.encoding import FORMATS
from svq.data.entries import Entry, readable
from svq.data.imageset import Advance, ImageSet, nothing
from svq.data.prepared import cached
from svq.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Pictures, too, but not read by us: they are named as skipped, so that none is missing without a word.
FOREIGN = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff"}
FOREIGN |= {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"}  # of cameras
EXPECTED = f"expected files ending in {', '.join(sorted(SUFFIXES))}"
TRAINING = {"train", "training"}  # names of folders, as torchvision's and other sets have them
HELD_OUT = {"val", "valid", "validation", "test"}


def picture_files(path: Path) -> list[Path]:
    """Return the picture files below a folder, sorted, with those of kinds that are not read.

    Raises:
        DataError: the folder does not exist or holds none, or one below it cannot be read.
    """
    if not path.is_dir():
        raise DataError(f"no such folder: {path}")
    files = sorted(p for p in _walk(path) if p.suffix.lower() in SUFFIXES | FOREIGN and _is_file(p))
    if not files:
        raise DataError(f"no picture below {path}; {EXPECTED}")
    return files


def _is_file(path: Path) -> bool:
    """Say whether a path is a file, or a link to one that is gone, which is to be named as unreadable."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _walk(root: Path) -> Iterator[Path]:
    """Yield all files below a folder, through links to folders too, each folder once."""
    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        # Hidden ones are none of the user's pictures: what macOS leaves beside each file, originals of a photo album.
        below[:] = sorted(name for name in below if not name.startswith("."))  # by name: a link may come twice
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    """Refuse a folder that cannot be read: a whole class would be missing without a word."""
    raise DataError(f"cannot read the folder {error.filename} ({error.strerror}); make it readable, or take it out")


def native_size(path: Path) -> int:
    """Return the shorter side of the first readable picture below a folder.

    Raises:
        DataError: there is none.
    """
    for file in picture_files(path):
        try:
            with Image.open(file, formats=FORMATS) as image:
                return min(image.size)
        except (OSError, ValueError, Image.DecompressionBombError):  # ValueError: of bad chunks in a PNG
            continue
    raise DataError(f"no readable picture below {path}")


def open_folder(path: Path, size: int, advance: Advance = nothing) -> ImageSet:
    """Return the pictures below a folder at `size` pixels.

    The class is the name of the folder that a picture lies in, if that is not the root itself or, in it, the
    folder of a split. A text file of the same name (``cat.jpg``, ``cat.txt``) is the caption.

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
                # Whether it may be read, too: a picture that could not be is read once it can be.
                listing.update(f"|{stat.st_size}|{stat.st_mtime_ns}|{os.access(part, os.R_OK)}\n".encode())
    return cached(str(path), f"folder|{listing.hexdigest()}", size, entries(path, files), advance, len(files))


def entries(root: Path, files: list[Path]) -> Iterator[Entry]:
    """List picture files below a folder.

    Where it holds nothing but ``train/`` and ``val/`` or ``test/``, as many sets have it, these are the splits.
    """
    tops = {file.relative_to(root).parts[0].lower() for file in files}
    divided = tops <= TRAINING | HELD_OUT and bool(tops & TRAINING) and bool(tops & HELD_OUT)
    for file in files:
        parts = file.relative_to(root).parts
        split: Literal["train", "val"] | None = None
        if divided:
            split = "train" if parts[0].lower() in TRAINING else "val"
        text = file.with_suffix(".txt")
        try:
            caption = text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
        except OSError:
            caption = ""
        yield Entry(
            key=readable(str(file.relative_to(root))),
            place=("nowhere", EXPECTED) if file.suffix.lower() in FOREIGN else ("file", str(file.absolute())),
            label=readable(parts[-2]) if len(parts) > 1 + divided else None,
            caption=caption,
            split=split,
        )
