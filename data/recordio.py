"""RecordIO, the container of MXNet's ``.rec`` files, and the image records inside it.

A part is, little-endian: the magic number, 3 bits of part flag and 29 bits of length, the payload, and zeros
up to a multiple of 4 bytes. A payload that itself holds the magic number at a multiple of 4 is cut there:
the 4 bytes are left out when writing and put back when reading, so that a reader can always find the next
record by searching for the magic number (dmlc-core, ``recordio.h``).

What is special: no length that a file announces is believed before it was held against the size of the file,
so that a damaged file costs neither memory nor a crash. Every error names the file and the offset.
"""

import mmap
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svq.errors import DataError

MAGIC = struct.pack("<I", 0xCED7230A)
MAX_LENGTH = 2**29 - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)  # part flags
IMAGE_HEADER = struct.Struct("<IfQQ")  # flag: number of labels that follow, label, id, second id

Take = Callable[[int, int], bytes]  # offset, length → bytes, fewer at the end of the file


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
    size, at = path.stat().st_size, 0
    with open(path, "rb") as file:

        def take(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        while at < size:
            payload, end = _record_at(take, at, size, path)
            yield at, payload
            at = end


def _record_at(take: Take, start: int, size: int, path: Path) -> tuple[bytes, int]:
    """Return the payload of the record that begins at an offset, and the offset behind it."""
    parts: list[bytes] = []
    at = start
    while True:
        head = take(at, 8)
        if len(head) < 8 or head[:4] != MAGIC:
            raise DataError(f"{path}: offset {at}: no record begins here (found {head[:4].hex() or 'the end'})")
        word = struct.unpack("<I", head[4:])[0]
        flag, length = word >> 29, word & MAX_LENGTH
        if not parts and flag not in (WHOLE, FIRST):
            raise DataError(f"{path}: offset {at}: a record begins with part flag {flag}")
        if parts and flag not in (MIDDLE, LAST):
            raise DataError(f"{path}: offset {at}: part flag {flag} inside a record")
        end = at + 8 + length + (-length % 4)
        part = take(at + 8, length) if end <= size else b""
        if end > size or len(part) < length:
            raise DataError(f"{path}: offset {at}: the file ends inside a record of {length} bytes")
        parts.append(part)
        at = end
        if flag in (WHOLE, LAST):
            return MAGIC.join(parts), at


def read_offsets(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read a ``.idx`` file, lines ``key TAB offset``.

    Returns:
        The keys (N,) and the offsets (N,), by ascending offset: in the order of the records in their file.

    Raises:
        DataError: a line is of another form, or an offset stands there twice.
    """
    keys, offsets = array("q"), array("q")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            key, _, offset = line.rstrip(b"\r\n").partition(b"\t")
            # 18 digits fit 64 bits; no file is longer.
            if not (key.isdigit() and offset.isdigit() and len(key) <= 18 and len(offset) <= 18):
                raise DataError(f"{path}: line {number}: expected 'key TAB offset', found {line[:40]!r}")
            keys.append(int(key))
            offsets.append(int(offset))
    found = np.frombuffer(offsets, np.int64) if offsets else np.empty(0, np.int64)
    order = np.argsort(found, kind="stable")
    found = found[order]
    if len(found) and not np.all(np.diff(found) > 0):
        twice = int(found[:-1][np.diff(found) == 0][0])
        raise DataError(f"{path}: offset {twice} stands there twice")
    return (np.frombuffer(keys, np.int64) if keys else np.empty(0, np.int64))[order], found


class RecordMap:
    """A file of image records, mapped into memory: any record by its offset.

    While it is open the file must not be written to: a map ends with its file, and reading beyond would end the
    process.

    Args:
        rec: the ``.rec`` file.

    Raises:
        DataError: it is missing.
    """

    def __init__(self, rec: Path) -> None:
        if not rec.is_file():
            raise DataError(f"no such file: {rec}")
        self.rec, self.size = rec, rec.stat().st_size
        with open(rec, "rb") as file:  # an empty file cannot be mapped
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""

    def payload_at(self, offset: int) -> bytes:
        """Return the payload of the record that begins at an offset.

        Raises:
            DataError: none begins there, or it is damaged.
        """
        return _record_at(self._take, offset, self.size, self.rec)[0]

    def image_at(self, offset: int) -> ImageRecord:
        """Return the image record that begins at an offset; errors as `payload_at`."""
        try:
            return unpack_image(self.payload_at(offset))
        except DataError as error:
            if str(error).startswith(str(self.rec)):
                raise
            raise DataError(f"{self.rec}: offset {offset}: {error}") from error

    def _take(self, offset: int, length: int) -> bytes:
        return self._bytes[offset : offset + length]


class RecordFile(RecordMap):
    """A file of image records with its offsets: any record by its number, in file order.

    It can be sent to another process, which opens it anew.

    Args:
        rec: the ``.rec`` file.
        idx: its ``.idx`` file.

    Attributes:
        keys: (N,) int64, the key of each record in the ``.idx`` file.
        offsets: (N,) int64, where each record begins.

    Raises:
        DataError: a file is missing, or the ``.idx`` file is damaged.
    """

    def __init__(self, rec: Path, idx: Path) -> None:
        super().__init__(rec)
        if not idx.is_file():
            raise DataError(f"no such file: {idx}")
        self.idx = idx
        self.keys, self.offsets = read_offsets(idx)

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordFile, (self.rec, self.idx)

    def __len__(self) -> int:
        return len(self.offsets)

    def payload(self, number: int) -> bytes:
        """Return the payload of a record.

        Raises:
            IndexError: there is no such record.
            DataError: no record begins where it should, or it is damaged.
        """
        return self.payload_at(self._offset(number))

    def __getitem__(self, number: int) -> ImageRecord:
        """Return an image record; errors as `payload`."""
        return self.image_at(self._offset(number))

    def _offset(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise IndexError(f"{self.rec} has {len(self)} records, asked for number {number}")
        return int(self.offsets[number])


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
