"""Open a source of pictures for a command: with progress, and a word about what it holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from svq.cli.output import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from svq.data import ImageSet
    from svq.data.imageset import Split
    from svq.data.loaders import Kind
    from svq.data.packed import PackedSet
    from svq.data.pictures import Pictures

SHOWN = 3  # names of skipped files
PREPARED_BYTES = 4 * 2**30  # larger packed sets are streamed unless something else is asked for


def open_source(source: str, size: int) -> "ImageSet":
    """Open a source at `size` pixels, and say how many pictures it holds and which files were skipped."""
    from svq.data import open_images
    from svq.training.log import bar

    with bar(f"read {source}", total=None) as advance:
        images = open_images(source, size, advance)
    held_out = int(images.validation.sum())
    say(
        f"{source}: {len(images):,} pictures of {size} px "
        f"({len(images) - held_out:,} to train on, {held_out:,} held out), {len(images.classes)} classes"
    )
    say_skipped(images.skipped)
    return images


def say_skipped(skipped: Sequence[str], named_by: str = "svq data info SOURCE --json") -> None:
    """Say which files could not be read, or the first of them and which command names all."""
    if skipped:
        say(f"{len(skipped):,} files were skipped:")
        for line in skipped[:SHOWN]:
            say(f"  {line}")
        if len(skipped) > SHOWN:
            say(f"  and {len(skipped) - SHOWN:,} more; '{named_by}' names them all")


def open_some(source: str, size: int, split: "Split", most: int) -> "tuple[ImageSet, NDArray[np.int64]]":
    """Open a source to measure on; return a set and the positions in it of at most `most` pictures of a split.

    Of a packed set that is too large to be prepared, no more is read than these.
    """
    from svq.data.packed_source import sample_packed
    from svq.training.log import bar

    if streams_by_itself(source, size):
        with bar(f"read {source}", total=None) as advance:
            images = sample_packed(Path(source).expanduser(), size, split, most, advance)
        say_skipped(images.skipped)
        say(f"{source}: {len(images):,} pictures, chosen at random")
        return images, images.indices("all")
    images = open_source(source, size)
    return images, images.sample(split, most)


def is_large(packed: "PackedSet", size: int) -> bool:
    """Say whether a packed set is rather read as it is needed than prepared at `size` pixels."""
    return packed.count("all") * 3 * size**2 > PREPARED_BYTES


def streams_by_itself(source: str, size: int) -> bool:
    """Say whether a source is a packed set that is too large to be prepared at `size` pixels."""
    from svq.data.sources import PACKED

    path = Path(source).expanduser()
    return path.suffix in PACKED and is_large(open_packed(path), size)


def open_packed(path: Path) -> "PackedSet":
    """Open a packed set; the first time, with a bar, for all of it is read."""
    from svq.data.packed import open_index
    from svq.data.verify import ensure_verified
    from svq.training.log import bar

    packed = open_index(path)
    with bar(f"verify {path}", packed.bytes, unit="bytes") as advance:
        return ensure_verified(packed, advance)


def open_pictures(source: str, size: int, loader: "Kind") -> "Pictures":
    """Open a source to train on: prepared at `size` pixels, or, of a packed set, read as it is needed.

    Raises:
        DataError: a loader is asked for, and the source is not packed, or not by svq.
    """
    from svq.data.pictures import PackedPictures
    from svq.data.sources import PACKED
    from svq.errors import DataError

    path = Path(source).expanduser()
    if path.suffix not in PACKED:
        if loader != "auto":
            raise DataError(f"--loader {loader} reads packed sets, and '{source}' is none; make one with svq data pack")
        return open_source(source, size)
    packed = open_packed(path)
    if loader == "auto" and not is_large(packed, size):
        return open_source(source, size)
    if packed.index is None:
        raise DataError(
            f"{source} has no held-out pictures, which training needs where a set is read as it goes; pack it anew: "
            f"svq data pack {source} --out NAME.rec"
        )
    say(f"{source}: {packed.count('train'):,} pictures to train on, {packed.count('val'):,} held out, read as needed")
    return PackedPictures(packed, size, loader)
