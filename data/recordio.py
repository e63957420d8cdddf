"""RecordIO, the container of MXNet's ``.rec`` files, and the image records inside it.

A part is, little-endian: the magic number, 3 bits of part flag and 29 bits of length, the payload, and zeros
up to a multiple of 4 bytes. A payload that itself holds the magic number at a multiple of 4 is cut there:
the 4 bytes are left out when writing and put back when reading, so that a reader can always find the next
record by searching for the magic number (dmlc-core, ``recordio.h``).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from svq.errors import DataError

MAGIC = struct.pack("<I", 0xCED7230A)
MAX_LENGTH = 2**29 - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)  # part flags
IMAGE_HEADER = struct.Struct("<IfQQ")  # flag: number of labels that follow, label, id, second id


class ImageRecord(NamedTuple):
    """One image record: its number, its labels, and the encoded picture."""

    id: int
    labels: tuple[float, ...]
    data: bytes


def write_record(file: BinaryIO, payload: bytes) -> int:
    """Append one record and return the offset at which it begins.

    Raises:
        DataError: the payload is longer than the format allows.
    """
    if len(payload) > MAX_LENGTH:
        raise DataError(f"a record of {len(payload)} bytes, more than the {MAX_LENGTH} that RecordIO allows")
    offset = file.tell()
    parts = _split(payload)
    for i, part in enumerate(parts):
        first, last = i == 0, i == len(parts) - 1
        flag = WHOLE if first and last else FIRST if first else LAST if last else MIDDLE
        file.write(MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4))
    return offset


def _split(payload: bytes) -> list[bytes]:
    """Cut a payload at each magic number that lies at a multiple of 4."""
    parts, start, at = [], 0, payload.find(MAGIC)
    while at >= 0:
        if at % 4 == 0:
            parts.append(payload[start:at])
            start = at + 4
            at = payload.find(MAGIC, start)
        else:
            at = payload.find(MAGIC, at + 1)
    return [*parts, payload[start:]]


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a RecordIO file in order, each as its offset and its payload.

    Raises:
        DataError: the file is damaged; the message names the offset.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        while file.tell() < size:
            start = file.tell()
            flag, part = _read_part(file, path)
            if flag not in (WHOLE, FIRST):
                raise DataError(f"{path}: offset {start}: a record begins with part flag {flag}")
            parts = [part]
            while flag not in (WHOLE, LAST):
                at = file.tell()
                flag, part = _read_part(file, path)
                if flag not in (MIDDLE, LAST):
                    raise DataError(f"{path}: offset {at}: part flag {flag} inside a record")
                parts.append(part)
            yield start, MAGIC.join(parts)


def _read_part(file: BinaryIO, path: Path) -> tuple[int, bytes]:
    start = file.tell()
    head = file.read(8)
    if len(head) < 8 or head[:4] != MAGIC:
        raise DataError(f"{path}: offset {start}: no record begins here (found {head[:4].hex() or 'the end'})")
    word = struct.unpack("<I", head[4:])[0]
    flag, length = word >> 29, word & MAX_LENGTH
    part = file.read(length)
    if len(part) < length or len(file.read(-length % 4)) < -length % 4:
        raise DataError(f"{path}: offset {start}: the file ends inside a record of {length} bytes")
    return flag, part


def pack_image(record: ImageRecord) -> bytes:
    """Return the payload of an image record; one label goes into the header, several behind it."""
    if len(record.labels) == 1:
        return IMAGE_HEADER.pack(0, record.labels[0], record.id, 0) + record.data
    count = len(record.labels)
    return IMAGE_HEADER.pack(count, 0.0, record.id, 0) + struct.pack(f"<{count}f", *record.labels) + record.data


def unpack_image(payload: bytes) -> ImageRecord:
    """Read an image record.

    Raises:
        DataError: the payload is too short for its header.
    """
    if len(payload) < IMAGE_HEADER.size:
        raise DataError(f"an image record of {len(payload)} bytes, shorter than its header of {IMAGE_HEADER.size}")
    count, label, number, _ = IMAGE_HEADER.unpack_from(payload)
    end = IMAGE_HEADER.size + 4 * count
    if len(payload) < end:
        raise DataError(f"an image record of {len(payload)} bytes that announces {count} labels")
    labels = struct.unpack_from(f"<{count}f", payload, IMAGE_HEADER.size) if count else (label,)
    return ImageRecord(number, labels, payload[end:])
