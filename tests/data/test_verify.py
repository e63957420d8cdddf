"""Verified sets: damage is found, once is enough, and a pair that does not fit is never let through."""

import io
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from svq.data.folder import entries, picture_files
from svq.data.packed import PackedSet, Shard, open_index
from svq.data.packing import PackSettings, pack
from svq.data.recordio import ImageRecord, pack_image, write_record
from svq.data.verify import ensure_verified, verify_packed
from svq.errors import DataError


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> PackedSet:
    listed = entries(folder, picture_files(folder))
    packed = pack(listed, tmp_path / "set.rec", str(folder), PackSettings(shard_size=30))
    age(packed)
    return packed


def age(packed: PackedSet) -> None:
    """Make files look as if they had been written a minute ago."""
    for path in packed.path.parent.iterdir():
        os.utime(path, (time.time() - 60,) * 2)


def elsewhere(folder: Path, out: Path) -> Path:
    with open(out, "wb") as rec, open(out.with_suffix(".idx"), "w") as idx:
        for i, file in enumerate(picture_files(folder)[:6]):
            idx.write(f"{i}\t{write_record(rec, pack_image(ImageRecord(i, (1.0,), file.read_bytes())))}\n")
    return out


def cut_at_a_record(shard: Shard) -> None:
    """Cut the records where the last one begins; the offsets stay: the pair that crashes DALI."""
    last = int(shard.open().offsets[-1])
    shard.rec.write_bytes(shard.rec.read_bytes()[:last])


def test_a_whole_set_is_in_order(packed: PackedSet) -> None:
    assert verify_packed(packed) == (64, ())
    assert ensure_verified(packed) is packed


def test_a_set_is_read_once(packed: PackedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_verified(packed)
    read: list[Path] = []
    monkeypatch.setattr("svq.data.verify.file_sha256", lambda path: read.append(path) or "")
    ensure_verified(packed)
    assert read == []
    os.utime(packed.shards("train")[0].rec)
    with pytest.raises(DataError, match="has changed since it was packed"):
        ensure_verified(packed)
    assert len(read) == 1


def test_a_file_that_was_written_just_now_gets_no_receipt(packed: PackedSet) -> None:
    rec = packed.shards("train")[0].rec
    os.utime(rec)
    ensure_verified(packed)
    stat = rec.stat()
    data = bytearray(rec.read_bytes())
    data[len(data) // 2] ^= 1
    rec.write_bytes(data)
    os.utime(rec, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if the clock had not moved on
    with pytest.raises(DataError, match="has changed since it was packed"):
        ensure_verified(packed)


@pytest.mark.parametrize("verified_before", [False, True])
def test_the_pair_that_crashes_dali_is_refused(packed: PackedSet, verified_before: bool) -> None:
    if verified_before:
        ensure_verified(packed)
    cut_at_a_record(packed.shards("train")[0])
    with pytest.raises(DataError, match=r"set-train-00000\.rec has \d+ bytes, \d+ in the index; 'svq data verify"):
        ensure_verified(packed)
    problems = " / ".join(verify_packed(packed).problems)
    assert "holds 29 records, 30 announced" in problems
    assert "1 offsets at which no record begins" in problems


@pytest.mark.parametrize("verified_before", [False, True])
def test_so_is_such_a_pair_from_elsewhere(folder: Path, tmp_path: Path, verified_before: bool) -> None:
    packed = open_index(elsewhere(folder, tmp_path / "other.rec"))
    age(packed)
    if verified_before:
        ensure_verified(packed)
    cut_at_a_record(packed.shards("train")[0])
    with pytest.raises(DataError, match=r"holds 5 records, 6 announced"):
        ensure_verified(open_index(tmp_path / "other.rec"))


@pytest.mark.parametrize("ending", ["rec", "idx", "jsonl"])
def test_one_flipped_bit_is_found_in_any_file(packed: PackedSet, ending: str) -> None:
    file = packed.shards("val")[0].rec.with_suffix(f".{ending}")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"\.{ending} has changed since it was packed: its SHA-256"):
        ensure_verified(packed)
    assert verify_packed(packed).problems


@pytest.mark.parametrize("ending", ["rec", "idx", "jsonl"])
def test_a_missing_file_is_named(packed: PackedSet, ending: str) -> None:
    file = packed.shards("val")[0].rec.with_suffix(f".{ending}")
    file.unlink()
    with pytest.raises(DataError, match=rf"no such file: .*set-val-00000\.{ending}"):
        ensure_verified(packed)


def test_offsets_that_leave_records_out_are_refused(folder: Path, tmp_path: Path) -> None:
    # DALI takes a record to end where the next offset is.
    rec = elsewhere(folder, tmp_path / "other.rec")
    lines = rec.with_suffix(".idx").read_text().splitlines(keepends=True)
    rec.with_suffix(".idx").write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(DataError, match="holds 6 records, 5 announced"):
        ensure_verified(open_index(rec))
    assert any("1 of 6 records are not named" in p for p in verify_packed(open_index(rec)).problems)


def test_a_picture_that_does_not_decode_is_found_by_the_long_look_only(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.effect_noise((20, 20), 50).save(png, "PNG")
    with open(tmp_path / "a.rec", "wb") as rec:
        write_record(rec, pack_image(ImageRecord(0, (1.0,), png.getvalue()[:200])))
    (tmp_path / "a.idx").write_text("0\t0\n")
    packed = open_index(tmp_path / "a.rec")
    ensure_verified(packed)
    (problem,) = verify_packed(packed).problems
    assert "a.rec: record 0 at offset 0: cannot be decoded" in problem


def test_a_huge_picture_from_elsewhere_is_refused_by_its_header(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("1", (12_000, 6_000)).save(png, "PNG")  # a few KB that DALI would decode into 216 MB
    rec = tmp_path / "huge.rec"
    with open(rec, "wb") as file:
        write_record(file, pack_image(ImageRecord(0, (1.0,), png.getvalue())))
    rec.with_suffix(".idx").write_text("0\t0\n")
    with pytest.raises(DataError, match="12000 x 6000 pixels, more than the 64000000 allowed"):
        ensure_verified(open_index(rec))


def test_labels_that_do_not_fit_the_layout_are_found(packed: PackedSet) -> None:
    packed.path.write_text(packed.path.read_text().replace('"layout": "class"', '"layout": "captions"', 2))
    with pytest.raises(DataError, match="record 0 at offset 0: 1 labels, 154 in the layout 'captions'"):
        ensure_verified(open_index(packed.path))
