"""RecordIO: bytes as in the format's description and as mxnet's own code writes them, and nothing lost."""

import io
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.data.mxnet_recordio import MxnetRecords, mxnet_recordio
from svq.data.recordio import (
    MAGIC,
    ImageRecord,
    RecordFile,
    pack_image,
    read_offsets,
    read_records,
    unpack_image,
    write_record,
)
from svq.data.shards import OwnRecords, RecordWriter
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


def payloads(count: int) -> list[bytes]:
    """Image records with 1, 5 or 154 labels, whose data hold the magic number at many places."""
    rng = random.Random(0)
    pieces = [MAGIC, MAGIC[:2], b"", b"abcd", bytes(3)]
    found = []
    for i in range(count):
        labels = tuple(float(rng.randrange(49408)) for _ in range((1, 5, 154)[i % 3]))
        data = b"".join(rng.choice([*pieces, rng.randbytes(rng.randrange(9))]) for _ in range(rng.randrange(12)))
        found.append(pack_image(ImageRecord(i, labels, data)))
    return [*found, b"", MAGIC, MAGIC * 5, rng.randbytes(300_000)]


def write(writer: RecordWriter, payloads: list[bytes]) -> None:
    for i, payload in enumerate(payloads):
        writer.write(3 * i, payload)
    writer.close()


def test_the_files_are_byte_for_byte_those_of_mxnet(tmp_path: Path) -> None:
    write(OwnRecords(tmp_path / "own.rec", tmp_path / "own.idx"), payloads(600))
    write(MxnetRecords(tmp_path / "mxnet.rec", tmp_path / "mxnet.idx"), payloads(600))
    for ending in ("rec", "idx"):
        assert (tmp_path / f"own.{ending}").read_bytes() == (tmp_path / f"mxnet.{ending}").read_bytes()


def test_mxnet_reads_ours_and_we_read_those_of_mxnet(tmp_path: Path) -> None:
    write(OwnRecords(tmp_path / "own.rec", tmp_path / "own.idx"), payloads(300))
    write(MxnetRecords(tmp_path / "mxnet.rec", tmp_path / "mxnet.idx"), payloads(300))
    theirs = mxnet_recordio().MXIndexedRecordIO(str(tmp_path / "own.idx"), str(tmp_path / "own.rec"), "r")
    assert [theirs.read_idx(3 * i) for i in range(304)] == payloads(300)
    theirs.reset()
    assert [theirs.read() for _ in range(304)] == payloads(300)
    assert theirs.read() is None
    theirs.close()
    ours = RecordFile(tmp_path / "mxnet.rec", tmp_path / "mxnet.idx")
    assert [ours.payload(i) for i in range(len(ours))] == payloads(300)
    assert ours.keys.tolist() == list(range(0, 3 * 304, 3))
    assert [payload for _, payload in read_records(tmp_path / "mxnet.rec")] == payloads(300)


def test_image_headers_are_those_of_mxnet() -> None:
    module = mxnet_recordio()
    assert module.IRHeader._fields == ("flag", "label", "id", "id2")
    assert module._IR_FORMAT == "IfQQ"
    one = module.pack(module.IRHeader(0, 4.0, 7, 0), b"picture")
    assert one == pack_image(ImageRecord(7, (4.0,), b"picture"))
    header, data = module.unpack(pack_image(ImageRecord(7, (1.0, 2.5), b"picture")))
    assert (header.flag, header.id, data) == (2, 7, b"picture")
    np.testing.assert_array_equal(header.label, np.float32([1, 2.5]))


def test_records_are_mapped_and_go_to_other_processes(tmp_path: Path) -> None:
    write(OwnRecords(tmp_path / "a.rec", tmp_path / "a.idx"), payloads(30))
    records = pickle.loads(pickle.dumps(RecordFile(tmp_path / "a.rec", tmp_path / "a.idx")))  # noqa: S301
    assert len(records) == 34
    assert records.payload(33) == payloads(30)[33]
    assert records[4].id == 4
    assert len(records[5].labels) == 154
    for number in (-1, 34):
        with pytest.raises(IndexError, match="34 records"):
            records[number]
    with pytest.raises(DataError, match=r"a\.rec: offset \d+: an image record of 0 bytes"):
        records[30]


def test_offsets_in_any_order_are_read_in_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_text("7\t40\n9\t0\n8\t16\n")
    keys, offsets = read_offsets(tmp_path / "a.idx")
    assert (keys.tolist(), offsets.tolist()) == ([9, 8, 7], [0, 16, 40])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 0\n", "line 1: expected 'key TAB offset'"),
        ("0\t0\n1\t-8\n", "line 2"),
        ("0\t0\n1\t\u0663\n", "line 2"),  # a digit, but none of ours
        (f"0\t{'9' * 5000}\n", "line 1"),
        ("0\t8\n1\t8\n", "offset 8 stands there twice"),
    ],
)
def test_odd_offsets_are_refused_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.idx").write_text(content)
    with pytest.raises(DataError, match=rf"a\.idx: {message}"):
        read_offsets(tmp_path / "a.idx")


def test_a_length_that_is_a_lie_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(MAGIC + struct.pack("<I", 2**29 - 1) + b"few")
    with pytest.raises(DataError, match=r"a\.rec: offset 0: the file ends inside a record of 536870911 bytes"):
        list(read_records(tmp_path / "a.rec"))


@pytest.mark.parametrize(("first", "second", "offset"), [(2, 0, 0), (5, 0, 0), (1, 0, 12), (1, 1, 12), (1, 7, 12)])
def test_part_flags_out_of_place_are_refused(tmp_path: Path, first: int, second: int, offset: int) -> None:
    parts = [MAGIC + struct.pack("<I", flag << 29 | 4) + b"abcd" for flag in (first, second)]
    (tmp_path / "a.rec").write_bytes(b"".join(parts))
    with pytest.raises(DataError, match=rf"a\.rec: offset {offset}: .*part flag"):
        list(read_records(tmp_path / "a.rec"))
