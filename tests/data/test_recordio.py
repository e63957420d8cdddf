"""RecordIO: bytes as in the format's description, and nothing lost."""

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.data.recordio import MAGIC, ImageRecord, pack_image, read_records, unpack_image, write_record
from svq.errors import DataError

pieces = st.lists(st.sampled_from([MAGIC, b"", b"a", b"bc", b"def", b"ghij", MAGIC[:3]]), max_size=8).map(b"".join)


def written(*payloads: bytes) -> bytes:
    file = io.BytesIO()
    for payload in payloads:
        write_record(file, payload)
    return file.getvalue()


def test_the_bytes_are_those_of_the_format() -> None:
    assert written(b"hello") == bytes.fromhex("0a23d7ce05000000") + b"hello\0\0\0"
    # A magic number at a multiple of 4 cuts the payload: first (1), middle (2), last (3); elsewhere it does not.
    part = MAGIC + struct.pack("<I", 1 << 29 | 4) + b"abcd"
    part += MAGIC + struct.pack("<I", 2 << 29 | 0)
    part += MAGIC + struct.pack("<I", 3 << 29 | 1) + b"e\0\0\0"
    assert written(b"abcd" + MAGIC + MAGIC + b"e") == part
    assert written(b"a" + MAGIC) == MAGIC + struct.pack("<I", 5) + b"a" + MAGIC + b"\0\0\0"


@given(st.lists(pieces | st.binary(max_size=40), max_size=5))
def test_every_payload_comes_back(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("rec") / "a.rec"
    path.write_bytes(written(*payloads))
    assert [payload for _, payload in read_records(path)] == payloads
    assert [offset for offset, _ in read_records(path)] == [len(written(*payloads[:i])) for i in range(len(payloads))]


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = written(b"abcd" + MAGIC + b"e", b"second")
    boundaries = {0, len(written(b"abcd" + MAGIC + b"e"))}
    path = tmp_path / "a.rec"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length in boundaries:
            list(read_records(path))
        else:
            with pytest.raises(DataError, match=r"a\.rec: offset \d+"):
                list(read_records(path))


@given(st.integers(0, 2**60), st.lists(st.floats(width=32, allow_nan=False), max_size=4), st.binary(max_size=20))
def test_image_records_come_back(number: int, labels: list[float], data: bytes) -> None:
    record = ImageRecord(number, tuple(labels) or (0.0,), data)
    assert unpack_image(pack_image(record)) == record


@pytest.mark.parametrize("payload", [b"", b"x" * 23, struct.pack("<IfQQ", 10, 0, 0, 0)])
def test_a_payload_too_short_for_its_header_is_refused(payload: bytes) -> None:
    with pytest.raises(DataError, match="an image record of"):
        unpack_image(payload)
