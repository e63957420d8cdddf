"""The packed source: pictures in a RecordIO file, with its offsets and what is known of them beside it.

    NAME.rec     image records: the class as label, the picture as PNG
    NAME.idx     ``number TAB offset`` for each record
    NAME.json    schema, counts, classes, captions, split, fingerprint, SHA-256 of both files

A ``.rec`` from elsewhere, without the JSON file, can be read too: its labels are classes, and its pictures
are split by their content.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from svq.data.folder import decode
from svq.data.imageset import ImageSet, Item, cached, in_validation
from svq.data.recordio import MAGIC, ImageRecord, pack_image, read_records, unpack_image, write_record
from svq.errors import DataError
from svq.provenance import file_sha256

SCHEMA = "svq packed images 1"


def pack(images: ImageSet, path: Path, advance: Callable[[int], None] = lambda n: None) -> None:
    """Write a set of pictures as ``.rec``, ``.idx`` and ``.json``; the last one appears when all is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    with open(path, "wb") as rec, open(path.with_suffix(".idx"), "w") as idx:
        for i in range(len(images)):
            png = io.BytesIO()
            Image.fromarray(images.images[i].transpose(1, 2, 0)).save(png, "PNG")
            offset = write_record(rec, pack_image(ImageRecord(i, (float(images.labels[i]),), png.getvalue())))
            idx.write(f"{i}\t{offset}\n")
            advance(1)
    index = {
        "schema": SCHEMA,
        "count": len(images),
        "image_size": images.image_size,
        "source": images.name,
        "fingerprint": images.fingerprint,
        "classes": images.classes,
        "captions": images.captions,
        "keys": images.keys,
        "validation": images.validation.tolist(),
        "sha256": {p.name: file_sha256(p) for p in (path, path.with_suffix(".idx"))},
    }
    path.with_suffix(".json").write_text(json.dumps(index))


def _index(path: Path) -> dict[str, Any] | None:
    """Return the JSON file beside a ``.rec``, or None if there is none."""
    file = path.with_suffix(".json")
    if not file.exists():
        return None
    try:
        index: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if index.get("schema") != SCHEMA:
        raise DataError(f"{file} is not an index of packed images: schema {index.get('schema')!r}")
    return index


def native_size(path: Path) -> int:
    """Return the shorter side of the first picture.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    for payload in read_records(path):
        return min(decode(unpack_image(payload).data).size)
    raise DataError(f"{path} holds no picture")


def open_packed(path: Path, size: int) -> ImageSet:
    """Return the pictures of a ``.rec`` file at `size` pixels.

    Raises:
        DataError: it is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    index = _index(path)
    return cached(str(path), f"rec|{file_sha256(path)}|{json.dumps(index)}", size, _items(path, index))


def _items(path: Path, index: dict[str, Any] | None) -> Iterator[Item]:
    for i, payload in enumerate(read_records(path)):
        try:
            record = unpack_image(payload)
            image = decode(record.data)
        except DataError as error:
            yield Item(f"record {i}", problem=str(error))
            continue
        label = int(record.labels[0]) if record.labels else -1
        if index is None:
            name = str(label) if label >= 0 else None
            yield Item(f"record {i}", image, name, validation=in_validation(record.data))
            continue
        if i >= index["count"] or not -1 <= label < len(index["classes"]):
            raise DataError(f"{path}: record {i} with label {label} does not fit {path.with_suffix('.json').name}")
        yield Item(
            key=index["keys"][i],
            image=image,
            label=index["classes"][label] if label >= 0 else None,
            caption=index["captions"][i],
            validation=index["validation"][i],
        )


def verify_packed(path: Path, advance: Callable[[int], None] = lambda n: None) -> dict[str, Any]:
    """Check a ``.rec`` and the files beside it: structure, checksums, offsets, and that each picture decodes.

    Returns:
        The number of records and the problems, as texts; no problem means that all is well.
    """
    problems: list[str] = []
    records = 0
    try:
        index = _index(path)
        for name, expected in (index or {}).get("sha256", {}).items():
            file = path.with_name(name)
            if not file.is_file() or file_sha256(file) != expected:
                problems.append(f"{name} is missing or has changed since it was packed")
        for i, payload in enumerate(read_records(path)):
            records += 1
            advance(1)
            try:
                decode(unpack_image(payload).data)
            except DataError as error:
                problems.append(f"record {i}: {error}")
        if index and records != index["count"]:
            problems.append(f"{records} records, {index['count']} announced")
        problems += _offset_problems(path)
    except (DataError, OSError) as error:
        problems.append(str(error))
    return {"records": records, "problems": problems}


def _offset_problems(path: Path) -> list[str]:
    """Compare the offsets in the ``.idx`` file with where records really begin."""
    file = path.with_suffix(".idx")
    if not file.exists():
        return [f"{file.name} is missing"]
    data, problems = path.read_bytes(), []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        key, _, offset = line.partition("\t")
        begins = offset.isdigit() and data[int(offset) : int(offset) + 4] == MAGIC
        if not key.isdigit() or not begins:
            problems.append(f"{file.name}, line {number}: no record begins at '{offset}'")
    return problems
