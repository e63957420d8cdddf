"""Lists of pictures with captions: CSV, TSV, JSONL, Parquet, and the lists of YFCC15M.

A row names a picture, by a path relative to a root folder, and what is known of it. Columns are found by their
usual names, or by those that the user gives; each line of JSONL has columns of its own. A CSV or TSV without a
header, as the lists of YFCC15M are, has the columns path, raw caption, synthetic caption; the last one may be missing.

What is special: the list is read row by row, and a row that makes no sense becomes an entry that cannot be read,
so that it is counted and named with the broken pictures.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from svq.data.entries import Entry, readable
from svq.errors import DataError, UserError, nearest

NAMES = {  # what a column may be called, the first that is there counts; in lower case
    "image": ("image", "path", "file", "filename", "filepath", "file_name", "image_path", "img", "photo"),
    "url": ("url", "image_url", "photo_url", "downloadurl"),
    "caption": ("caption", "raw_caption", "raw", "text", "title", "description"),
    "synthetic": ("synthetic", "synthetic_caption", "syn_caption", "recaption", "generated_caption"),
    "class": ("class", "label", "category"),
    "split": ("split",),
    "key": ("key", "id", "uid"),
}
SPLITS: dict[str, Literal["train", "val"]] = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "val",
}  # fmt: skip
CAPTIONS = ("caption", "synthetic")
WHAT = {"image": "pictures", "url": "addresses"}

PATH = 4096  # characters of a path, at most; Linux allows as many bytes
LINE = 2**24  # bytes of a line of JSONL, at most

Row = Mapping[str, Any] | str  # or what is wrong with it


def entries(path: Path, root: Path | None = None, columns: Mapping[str, str] | None = None) -> Iterator[Entry]:
    """List the pictures that a file names.

    Args:
        path: the list; its ending says what it is.
        root: the folder that relative paths begin in; by default the one that the list lies in.
        columns: names of columns by what they hold (image, caption, synthetic, class, split, key), where
            the usual names do not find them.

    Raises:
        DataError: the list is missing, damaged, or has no column of pictures, or the root is no folder.
        UserError: pyarrow is needed and not installed.
    """
    if root is not None and not root.is_dir():
        raise DataError(f"{root}, in which the paths of {path} are to begin, is no folder; give another --root")
    folder = str((root or path.parent).absolute())
    for number, row in enumerate(read_rows(path, "image", columns), start=1):
        yield _entry(row, number, folder)


def read_rows(path: Path, needed: str, columns: Mapping[str, str] | None = None) -> Iterator[dict[str, str] | str]:
    """Yield the rows of a list, each as texts by what its columns hold, or as what is wrong with it.

    Args:
        path: the list; its ending says what it is.
        needed: what it must hold, and what the first column holds if there is no header: image or url.
        columns: names of columns by what they hold, where the usual names do not find them.

    Raises:
        DataError: the list is missing, damaged, or has no column of what is needed.
        UserError: pyarrow is needed and not installed.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    if path.suffix not in _READERS:
        raise DataError(f"{path} is no list; expected a file ending in {', '.join(_READERS)}")
    for role in columns or {}:
        if role not in NAMES:
            raise UserError(f"unknown kind of column '{role}'{nearest(role, NAMES)}")
    given = columns or {}
    names, rows = _READERS[path.suffix](path, needed, given)
    _check_columns(path, names, needed, given)

    @lru_cache(maxsize=64)  # there are millions of rows, and most have the same names
    def found(*names: str) -> dict[str, str]:
        return _find_columns(names, given)

    for row in rows:
        if isinstance(row, str):
            yield row
        else:
            yield {needed: ""} | {role: _text(row[name], role) for role, name in found(*row).items()}


def _entry(values: dict[str, str] | str, number: int, root: str) -> Entry:
    if isinstance(values, str):
        return Entry(f"row {number}", ("nowhere", values))
    image, split = values["image"], values.get("split", "")
    possible = _may_be_a_path(image)
    key = values.get("key") or (possible and readable(image)) or f"row {number}"
    if not image:
        return Entry(key, ("nowhere", "the row names no picture"))
    if not possible:
        if len(image) > PATH:
            return Entry(key, ("nowhere", f"a picture is named by its path, and {len(image):,} characters are none"))
        return Entry(key, ("nowhere", f"the path {image!r} has a character in it that no path can have"))
    if split and split.lower() not in SPLITS:
        return Entry(key, ("nowhere", f"unknown split '{split}'; known: {', '.join(SPLITS)}"))
    return Entry(
        key=key,
        place=("file", os.path.join(root, image)),
        label=values.get("class") or None,
        caption=values.get("caption", ""),
        synthetic=values.get("synthetic", ""),
        split=SPLITS.get(split.lower()),
    )


def _may_be_a_path(name: str) -> bool:
    """Say whether a name is short enough, and has no character that Python meets with a ValueError: NUL, surrogates."""
    try:
        return len(name) <= PATH and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _text(value: object, role: str) -> str:
    text = "" if value is None else str(value).strip()
    # A lone surrogate, which JSON can hold, is no text; but in a path it may stand for a byte that is none (PEP 383).
    return text if role == "image" else text.encode(errors="replace").decode()


def _find_columns(names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the columns by what they hold."""
    lower = {name.lower(): name for name in reversed(names)}
    usual = {role: next((lower[n] for n in known if n in lower), None) for role, known in NAMES.items()}
    return {role: name for role, name in {**usual, **given}.items() if name is not None and name in names}


def _check_columns(path: Path, names: Sequence[str], needed: str, given: Mapping[str, str]) -> None:
    """Make sure that what is needed and what the user named is there."""
    for role, name in given.items():
        if name not in names:
            raise DataError(f"{path} has no column '{name}' for {role}; it has: {', '.join(names)}")
    if needed not in _find_columns(names, given):
        raise DataError(
            f"{path} has no column of {WHAT[needed]}; it has: {', '.join(names)}; name one with --column {needed}=NAME"
        )


def _read_separated(path: Path, needed: str, given: Mapping[str, str]) -> tuple[Sequence[str], Iterator[Row]]:
    known, bare = {*NAMES[needed], *given.values()}, (needed, *CAPTIONS)
    with _opened(path) as file:
        first = file.readline(2**20)
    tabs = "\t" in first
    # In files with tabs a quotation mark is a character like others: YFCC15M's captions are full of single ones.
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    header = _first_row(path, csv.reader([first], **dialect))
    has_header = any(cell.strip() in known or cell.strip().lower() in known for cell in header)
    # A first row that is neither a known header nor begins with a path or an address is a header of other names.
    bare_row = 1 <= len(header) <= 3 and any(mark in header[0] for mark in "./")
    if not has_header and not bare_row:
        raise DataError(
            f"{path} has {len(header)} columns and no header that names one of {WHAT[needed]}; expected a header, "
            f"or the columns {', '.join(bare)}; if there is one, name its column with --column {needed}=NAME"
        )
    names = [cell.strip() for cell in header] if has_header else bare[: len(header)]

    def rows() -> Iterator[Row]:
        with _opened(path) as file:
            reader = csv.reader(file, **dialect)
            if has_header:
                _first_row(path, reader)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield f"line {reader.line_num}: {error}"
                    continue
                if len(cells) == len(names):
                    yield dict(zip(names, cells, strict=True))
                elif cells:
                    yield f"line {reader.line_num} has {len(cells)} columns, {len(names)} expected"

    return names, rows()


def _first_row(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        return next(reader, [])
    except csv.Error as error:
        raise DataError(f"{path}, line 1, cannot be read: {error}") from error


def _opened(path: Path) -> Any:
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def _read_jsonl(path: Path, needed: str, given: Mapping[str, str]) -> tuple[Sequence[str], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        with open(path, "rb") as file:
            for number, line in enumerate(_lines(file), start=1):
                if line is None:
                    yield f"line {number} is longer than {LINE:,} bytes; one JSON object a line is expected"
                    continue
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield f"line {number} is not JSON: {error}"
                    continue
                yield row if isinstance(row, dict) else f"line {number} is not a JSON object"

    # The names of the first row and of those that add what is looked for; of all rows they could fill the memory.
    names: dict[str, None] = {}
    missing = {needed, *given}
    for row in rows():
        if isinstance(row, dict):
            found = missing.intersection(_find_columns([*row], given))
            if found or not names:
                names |= dict.fromkeys(row)
            missing -= found
            if not missing:
                break
    if not names:
        raise DataError(f"{path} holds no JSON object")
    return list(names), rows()


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield lines, and None for one that is too long: perhaps the whole of a list that is one JSON value."""
    while line := file.readline(LINE):
        if len(line) < LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LINE)
        yield None


def _read_parquet(path: Path, needed: str, given: Mapping[str, str]) -> tuple[Sequence[str], Iterator[Row]]:
    try:
        from pyarrow import ArrowException, types
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install 'svq[parquet]'") from error
    try:
        file = ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error

    schema = file.schema_arrow
    wanted = []
    for role, name in _find_columns(schema.names, given).items():
        kind = schema.field(name).type
        if not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)):
            wanted.append(name)
        elif role == needed or role in given:  # another one, such as pictures beside their addresses, is left out
            raise DataError(
                f"{path}: the column '{name}' holds {kind}, not text; pictures that lie in the file itself are to be "
                "written as files first, and listed by their paths"
            )

    def rows() -> Iterator[Row]:
        with file:
            try:
                for batch in file.iter_batches(batch_size=1024, columns=wanted):
                    yield from batch.to_pylist()
            except (ArrowException, OSError) as error:
                raise DataError(f"{path} is damaged: {error}") from error

    return schema.names, rows()


_READERS: dict[str, Callable[..., tuple[Sequence[str], Iterator[Row]]]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
