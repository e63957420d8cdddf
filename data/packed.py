"""The packed source: pictures in a RecordIO file, with its offsets and what is known of them beside it.

    NAME.rec     image records: the class as label, the picture as PNG
    NAME.idx     ``number TAB offset`` for each record
    NAME.json    schema, counts, classes, captions, split, fingerprint, SHA-256 of both files

A ``.rec`` from elsewhere, without the JSON file, can be read too: its labels are classes, and its pictures
are split by their content.
"""

import io
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from svq.data.folder import decode
from svq.data.imageset import Advance, ImageSet, Item, cached, in_validation, nothing
from svq.data.recordio import ImageRecord, pack_image, read_records, unpack_image, write_record
from svq.errors import DataError
from svq.provenance import file_sha256

SCHEMA = "svq packed images 1"


def pack(images: ImageSet, path: Path, advance: Advance = nothing) -> None:
    """Write a set of pictures as ``.rec``, ``.idx`` and ``.json``; they appear when all is done, the last one last.

    Raises:
        DataError: the name does not end in .rec, or a file of another kind stands where one of these would.
    """
    if path.suffix != ".rec":
        raise DataError(f"a packed file ends in .rec, got '{path.name}'")
    _index(path)  # refuses to go on if the JSON file beside it is somebody else's
    path.parent.mkdir(parents=True, exist_ok=True)
    targets = [path, path.with_suffix(".idx"), path.with_suffix(".json")]
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=path.parent) as folder:
        work = [Path(folder) / target.name for target in targets]
        _write_records(images, work[0], work[1], advance)
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
            "sha256": {file.name: file_sha256(file) for file in work[:2]},
        }
        work[2].write_text(json.dumps(index))
        targets[2].unlink(missing_ok=True)  # a crash in between must not leave an index of other records
        for file, target in zip(work, targets, strict=True):
            file.rename(target)


def _write_records(images: ImageSet, rec: Path, idx: Path, advance: Advance) -> None:
    with open(rec, "wb") as records, open(idx, "w") as offsets:
        for i in range(len(images)):
            png = io.BytesIO()
            Image.fromarray(images.images[i].transpose(1, 2, 0)).save(png, "PNG")
            offset = write_record(records, pack_image(ImageRecord(i, (float(images.labels[i]),), png.getvalue())))
            offsets.write(f"{i}\t{offset}\n")
            advance(1)


def _index(path: Path) -> dict[str, Any] | None:
    """Return the JSON file beside a ``.rec``, or None if there is none."""
    file = path.with_suffix(".json")
    if not file.exists():
        return None
    try:
        index = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file} is not an index of packed images: {error}") from error
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        raise DataError(f"{file} is not an index of packed images; its schema is not '{SCHEMA}'")
    columns = [index.get(name) for name in ("keys", "captions", "validation")]
    whole = all(isinstance(c, list) and len(c) == index.get("count") for c in columns)
    if not whole or not isinstance(index.get("classes"), list) or not isinstance(index.get("sha256"), dict):
        raise DataError(f"{file} is damaged: its columns do not fit its count")
    return index


def native_size(path: Path) -> int:
    """Return the shorter side of the first picture.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    for _, payload in read_records(path):
        return min(decode(unpack_image(payload).data).size)
    raise DataError(f"{path} holds no picture")


def open_packed(path: Path, size: int, advance: Advance = nothing) -> ImageSet:
    """Return the pictures of a ``.rec`` file at `size` pixels.

    Raises:
        DataError: it is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    index = _index(path)
    return cached(str(path), f"rec|{file_sha256(path)}|{json.dumps(index)}", size, _items(path, index), advance)


def _items(path: Path, index: dict[str, Any] | None) -> Iterator[Item]:
    for i, (_, payload) in enumerate(read_records(path)):
        try:
            record = unpack_image(payload)
            image = decode(record.data)
            if record.labels and not math.isfinite(record.labels[0]):
                raise DataError(f"label {record.labels[0]}")
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


def verify_packed(path: Path, advance: Advance = nothing) -> dict[str, Any]:
    """Check a ``.rec`` and the files beside it: structure, checksums, offsets, and that each picture decodes.

    Args:
        path: the ``.rec`` file.
        advance: called with the number of bytes read since the last call.

    Returns:
        The number of records and the problems, as texts; no problem means that all is well.
    """
    problems: list[str] = []
    offsets: list[int] = []
    try:
        index = _index(path)
        for name, expected in (index or {}).get("sha256", {}).items():
            file = path.with_name(name)
            if not file.is_file() or file_sha256(file) != expected:
                problems.append(f"{name} is missing or has changed since it was packed")
        for offset, payload in read_records(path):
            advance(offset - (offsets[-1] if offsets else 0))
            offsets.append(offset)
            try:
                decode(unpack_image(payload).data)
            except DataError as error:
                problems.append(f"record {len(offsets) - 1}: {error}")
        if not offsets:
            problems.append(f"{path.name} holds no record")
        if index and len(offsets) != index["count"]:
            problems.append(f"{len(offsets)} records, {index['count']} announced")
    except (DataError, OSError) as error:
        problems.append(str(error))
    return {"records": len(offsets), "problems": problems + _offset_problems(path, offsets)}


def _offset_problems(path: Path, offsets: list[int]) -> list[str]:
    """Compare the offsets in the ``.idx`` file with where records really begin."""
    file = path.with_suffix(".idx")
    if not file.exists():
        return [f"{file.name} is missing"]
    problems, begin, named = [], set(offsets), set()
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        key, _, offset = line.partition("\t")
        if not key.isdecimal() or not offset.isdecimal() or int(offset) not in begin:
            problems.append(f"{file.name}, line {number}: no record begins at '{offset}'")
        else:
            named.add(int(offset))
    if begin - named:
        problems.append(f"{file.name}: {len(begin - named)} of {len(begin)} records are not named")
    return problems
