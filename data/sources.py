"""What a SOURCE on the command line may be, and how each is opened, or listed to be packed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from svq.data.imageset import Advance, ImageSet, nothing
from svq.errors import DataError, UserError

if TYPE_CHECKING:
    from svq.data.entries import Entry

GENERATED = "samples.json"  # the record in a folder that `svq generate` or `svq paint` wrote
PACKED = (".rec", ".json")  # endings of a packed set's name
LISTS = (".csv", ".tsv", ".jsonl", ".parquet")
DRAWN_SIZE = 64  # of drawings, which have no size of their own
SOURCE_HELP = "a folder of images, 'openmoji', 'idx:DIR', or a packed .rec file"


def native_size(source: str) -> int:
    """Return the size that the pictures of a source have: the shorter side of its first one.

    OpenMoji are drawings without a size of their own and get `DRAWN_SIZE`.

    Raises:
        DataError: there is no such source, or it holds no readable picture.
    """
    path = Path(source).expanduser()
    if source == "openmoji":
        return DRAWN_SIZE
    if source.startswith("idx:"):
        from svq.data.idx import native_size as idx_size

        return idx_size(Path(source.removeprefix("idx:")).expanduser())
    if path.suffix in PACKED:
        from svq.data.packed_source import native_size as packed_size

        return packed_size(path)
    from svq.data.folder import native_size as folder_size

    return folder_size(_pictures_in(path))


def _pictures_in(path: Path) -> Path:
    """Return the folder of pictures; of painted ones, not the one with the grid beside them."""
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
    if path.suffix in LISTS and path.is_file():
        raise DataError(
            f"a list of pictures is packed first: svq data pack {source} --out NAME.rec (or, to tokenize it, streamed: "
            "give --stream)"
        )
    raise DataError(f"no data source '{source}'; expected {SOURCE_HELP}")


def list_pictures(
    source: str, drawn_size: int = DRAWN_SIZE, root: Path | None = None, columns: Mapping[str, str] | None = None
) -> "Iterator[Entry]":
    """List the pictures of a source, or of a list of pictures, as they are.

    Args:
        source: what `open_images` takes, or a CSV, TSV, JSONL or Parquet file that names pictures.
        drawn_size: side in pixels of what is drawn.
        root: the folder that a list's relative paths begin in; by default the one that it lies in.
        columns: names of a list's columns, see `svq.data.lists.entries`.

    Raises:
        DataError: there is no such source, or it is damaged.
    """
    path = Path(source).expanduser()
    if path.suffix in LISTS and not path.is_dir():
        from svq.data.lists import entries as listed

        return listed(path, root, columns)
    if root or columns:
        raise UserError(f"--root and --column are for lists ({', '.join(LISTS)}), and '{source}' is none")
    if source == "openmoji":
        from svq.data.openmoji import entries as emoji

        return emoji(drawn_size)
    if source.startswith("idx:"):
        from svq.data.idx import entries as digits

        return digits(Path(source.removeprefix("idx:")).expanduser())
    if path.suffix in PACKED:
        from svq.data.packed import open_index
        from svq.data.packed_source import entries as records
        from svq.data.verify import ensure_verified

        return (entry for _, entry in records(ensure_verified(open_index(path))))
    if source and path.is_dir():
        from svq.data.folder import entries as pictures
        from svq.data.folder import picture_files

        folder = _pictures_in(path)
        return pictures(folder, picture_files(folder))
    raise DataError(f"no data source '{source}'; expected {SOURCE_HELP}, or a list ({', '.join(LISTS)})")
