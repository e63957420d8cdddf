"""What a SOURCE on the command line may be, and how each is opened."""

from pathlib import Path

from svq.data.imageset import Advance, ImageSet, nothing
from svq.errors import DataError

GENERATED = "samples.json"  # the record in a folder that `svq generate` wrote
PACKED = (".rec", ".json")  # endings of a packed set's name
SOURCE_HELP = "a folder of images, 'openmoji', 'idx:DIR', or a packed .rec file"


def native_size(source: str) -> int:
    """Return the size that the pictures of a source have: the shorter side of its first one.

    OpenMoji are drawings without a size of their own and get 64.

    Raises:
        DataError: there is no such source, or it holds no readable picture.
    """
    path = Path(source).expanduser()
    if source == "openmoji":
        return 64
    if source.startswith("idx:"):
        from svq.data.idx import native_size as idx_size

        return idx_size(Path(source.removeprefix("idx:")).expanduser())
    if path.suffix in PACKED:
        from svq.data.packed_source import native_size as packed_size

        return packed_size(path)
    from svq.data.folder import native_size as folder_size

    return folder_size(_pictures_in(path))


def _pictures_in(path: Path) -> Path:
    """Return the folder of pictures; of generated ones, not the one with the grid beside them."""
    return path / "images" if (path / GENERATED).is_file() and (path / "images").is_dir() else path


def open_images(source: str, size: int, advance: Advance = nothing) -> ImageSet:
    """Open a source of images at `size` pixels; the first time it is prepared and cached.

    Args:
        source: a folder of images, ``openmoji``, ``idx:DIR``, or a packed ``.rec`` file.
        size: side of the pictures in pixels.
        advance: called with the number of pictures read since the last call, while the source is prepared.

    Raises:
        DataError: there is no such source, or it holds no readable picture.
    """
    # Each source is imported when it is used: a folder of photographs needs no SVG renderer.
    if source == "openmoji":
        from svq.data.openmoji import open_openmoji

        return open_openmoji(size, advance)
    if source.startswith("idx:"):
        from svq.data.idx import open_idx

        return open_idx(Path(source.removeprefix("idx:")).expanduser(), size, advance)
    path = Path(source).expanduser()
    if path.suffix in PACKED:
        from svq.data.packed_source import open_packed

        return open_packed(path, size, advance)
    if source and path.is_dir():
        from svq.data.folder import open_folder

        return open_folder(_pictures_in(path), size, advance)
    raise DataError(f"no data source '{source}'; expected {SOURCE_HELP}")
