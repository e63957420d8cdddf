"""What a SOURCE on the command line may be, and how each is opened."""

from pathlib import Path

from svq.data.imageset import ImageSet
from svq.errors import DataError

SOURCE_HELP = "a folder of images, 'openmoji', 'idx:DIR', or a packed .rec file"


def open_images(source: str, size: int) -> ImageSet:
    """Open a source of images at `size` pixels; the first time it is prepared and cached.

    Args:
        source: a folder of images, ``openmoji``, ``idx:DIR``, or a packed ``.rec`` file.
        size: side of the pictures in pixels.

    Raises:
        DataError: there is no such source, or it holds no readable picture.
    """
    # Each source is imported when it is used: a folder of photographs needs no SVG renderer.
    if source == "openmoji":
        from svq.data.openmoji import open_openmoji

        return open_openmoji(size)
    if source.startswith("idx:"):
        from svq.data.idx import open_idx

        return open_idx(Path(source.removeprefix("idx:")).expanduser(), size)
    path = Path(source).expanduser()
    if path.suffix == ".rec":
        from svq.data.packed import open_packed

        return open_packed(path, size)
    if path.is_dir():
        from svq.data.folder import open_folder

        return open_folder(path, size)
    raise DataError(f"no data source '{source}'; expected {SOURCE_HELP}")
