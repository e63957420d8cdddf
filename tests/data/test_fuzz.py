"""Damaged files: a typed error or the right records, never a crash, and no memory for lengths that are lies."""

import json
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svq.data import open_images
from svq.data.entries import Entry
from svq.data.folder import entries, picture_files
from svq.data.loaders import Kind, LoaderSettings, open_loader
from svq.data.packed import open_index
from svq.data.packing import PackSettings, pack
from svq.data.recordio import MAGIC, ImageRecord, RecordFile, pack_image, read_records, unpack_image, write_record
from svq.data.verify import ensure_verified, verify_packed
from svq.errors import DataError

VALUES = [MAGIC, bytes(4), b"\xff" * 4, b"\xff\xff\xff\x1f", *(struct.pack("<I", f << 29 | 8) for f in range(1, 8))]
MOST_MEMORY = 2 * 2**20  # bytes, of files of about 2 KB


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damage a file at one to three places, in one of several ways."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 2, 4, 8, 40)))
        how = rng.randrange(6)
        if how == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at - at % 4 : at - at % 4 + 4] = rng.choice(VALUES)
        elif how == 2:
            del out[at:end]
        elif how == 3:
            out[at:at] = rng.randbytes(end - at)
        elif how == 4:
            out[at:at] = out[at:end]
        else:
            del out[at:]
    return bytes(out)


@dataclass
class Pair:
    """A small pair of files and what is in them."""

    rec: Path
    idx: Path
    whole: tuple[bytes, bytes]
    records: list[ImageRecord]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    rng = random.Random(0)
    payloads = [rng.randbytes(rng.randrange(60)) for _ in range(8)] + [MAGIC, b"abcd" + MAGIC * 2 + b"e", b""]
    records = [ImageRecord(i, (float(i),) * (1 + i % 3), data) for i, data in enumerate(payloads)]
    rec, idx = BytesIO(), "".join
    offsets = [write_record(rec, pack_image(record)) for record in records]
    whole = (rec.getvalue(), idx(f"{i}\t{offset}\n" for i, offset in enumerate(offsets)).encode())
    return Pair(tmp_path / "a.rec", tmp_path / "a.idx", whole, records)


def typed(read: Callable[[], list[ImageRecord]]) -> list[ImageRecord] | None:
    """Return the records, or None where the damage was named."""
    try:
        return read()
    except DataError:
        return None


def read_both(pair: Pair, rec: bytes, idx: bytes) -> tuple[list[ImageRecord] | None, list[ImageRecord] | None]:
    """Read one after the other, and by number."""
    pair.rec.write_bytes(rec)
    pair.idx.write_bytes(idx)

    def by_number() -> list[ImageRecord]:
        records = RecordFile(pair.rec, pair.idx)
        return [records[i] for i in range(len(records))]

    return typed(lambda: [unpack_image(payload) for _, payload in read_records(pair.rec)]), typed(by_number)


def damages(pair: Pair, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield every truncation of both files, and random mutations."""
    rec, idx = pair.whole
    yield from ((rec[:n], idx) for n in range(len(rec)))
    yield from ((rec, idx[:n]) for n in range(len(idx)))
    rng = random.Random(1)
    for i in range(count):
        yield (mutated(rec, rng), idx) if i % 2 else (rec, mutated(idx, rng))


def test_a_whole_file_is_read_both_ways(pair: Pair) -> None:
    assert read_both(pair, *pair.whole) == (pair.records, pair.records)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_give_a_typed_error_or_records_and_cost_no_memory(pair: Pair, count: int) -> None:
    tracemalloc.start()
    named = 0
    for rec, idx in damages(pair, count):
        one, other = read_both(pair, rec, idx)
        named += one is None or other is None
        for records in (one, other):
            assert records is None or sum(len(r.data) for r in records) <= 20 * len(pair.whole[0])
        if rec == pair.whole[0]:
            assert one == pair.records
            assert other is None or all(record in pair.records for record in other)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_MEMORY
    assert named > count / 3


def check_sets(folder: Path, tmp_path: Path, count: int, step: int) -> int:
    """Damage a packed set in many ways: it is refused, or it is the same set. Returns how many were refused."""
    listed = list(entries(folder, picture_files(folder)))[:6]
    packed = pack(listed, tmp_path / "set.rec", "few", PackSettings(layout="class"))
    shard = packed.shards("train")[0]
    assert shard.texts is not None
    files = [shard.rec, shard.idx, shard.texts, packed.path]
    whole = {file: file.read_bytes() for file in files}
    content = [shard.open()[i] for i in range(shard.count)]
    rng, refused = random.Random(2), 0

    def damaged() -> Iterator[tuple[Path, bytes]]:
        for file in files[:3]:
            yield from ((file, whole[file][:n]) for n in range(0, len(whole[file]), step))
        for i in range(count):
            yield files[i % 4], mutated(whole[files[i % 4]], rng)

    for file, data in damaged():
        file.write_bytes(data)
        try:
            found = ensure_verified(open_index(packed.path)).shards("train")
            assert [found[0].open()[i] for i in range(found[0].count)] == content
        except DataError:
            refused += 1
            assert data != whole[file]
        file.write_bytes(whole[file])
    return refused


def test_a_damaged_set_is_refused_or_the_same(folder: Path, tmp_path: Path) -> None:
    assert check_sets(folder, tmp_path, count=400, step=37) > 300


@pytest.mark.slow
def test_a_set_damaged_at_any_offset_is_refused_or_the_same(folder: Path, tmp_path: Path) -> None:
    assert check_sets(folder, tmp_path, count=10_000, step=1) > 9_000


def damaged_pictures(folder: Path, rng: random.Random) -> list[Entry]:
    """Write 1,000 JPEG and PNG files with damage, and list them."""
    listed = []
    for i in range(1000):
        buffer = BytesIO()
        pixels = np.frombuffer(rng.randbytes(20 * 24 * 3), np.uint8).reshape(20, 24, 3)
        Image.fromarray(pixels).save(buffer, ("JPEG", "PNG")[i % 2])
        (folder / f"{i}.img").write_bytes(mutated(buffer.getvalue(), rng))
        listed.append(Entry(f"{i}", ("file", str(folder / f"{i}.img"))))
    return listed


def test_of_damaged_pictures_every_one_is_accounted_for(tmp_path: Path) -> None:
    listed = damaged_pictures(tmp_path, random.Random(3))
    packed = pack(listed, tmp_path / "set.rec", "damaged", PackSettings(resize=16), max_broken="100%")
    kept = [texts.key for shard in packed.shards("all") for texts in shard.read_texts()]
    skipped = [json.loads(line) for line in (tmp_path / "set.skipped.jsonl").read_text().splitlines()]
    assert sorted([*kept, *(line["key"] for line in skipped)]) == sorted(f"{i}" for i in range(1000))
    assert all(line["problem"] for line in skipped)
    assert packed.index is not None
    assert packed.index.skipped == len(skipped) > 200
    assert verify_packed(packed).problems == ()
    assert len(open_images(str(packed.path), 16)) == len(kept) > 100


@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_what_is_kept_of_damaged_pictures_stops_no_loader(tmp_path: Path, kind: Kind) -> None:
    rng = random.Random(3)
    packed = pack(damaged_pictures(tmp_path, rng), tmp_path / "set.rec", "damaged", PackSettings(), max_broken="100%")
    assert packed.count("train") > 100
    loader = open_loader(kind, packed, LoaderSettings(16, 8), torch.device("cpu"))
    for _ in range(-(-packed.count("train") // 8)):
        assert next(loader).images.shape == (8, 3, 16, 16)
    loader.close()
