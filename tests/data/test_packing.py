"""Packing: the order is the seed's, no work is lost, and nothing of others is destroyed."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svq.data.encoding import decode
from svq.data.entries import Entry
from svq.data.folder import entries, picture_files
from svq.data.imageset import Advance
from svq.data.info import describe_packed
from svq.data.packed import PackedSet
from svq.data.packing import PackSettings, _limit, pack
from svq.data.sources import list_pictures
from svq.data.verify import verify_packed
from svq.errors import DataError, UserError


def listed(folder: Path) -> list[Entry]:
    return list(entries(folder, picture_files(folder)))


def contents(packed: PackedSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(packed.path.parent.iterdir())}


def test_the_order_is_the_seeds_whatever_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    one = pack(listed(folder), tmp_path / "1" / "a.rec", "x", PackSettings(shard_size=25))
    two = pack(listed(folder), tmp_path / "2" / "a.rec", "x", PackSettings(shard_size=25), workers=2)
    other = pack(listed(folder), tmp_path / "3" / "a.rec", "x", PackSettings(shard_size=25, seed=1))
    assert contents(one) == contents(two)
    assert one.fingerprint != other.fingerprint
    assert verify_packed(two).problems == ()


def test_mxnets_writer_makes_the_same_shards(folder: Path, tmp_path: Path) -> None:
    own = pack(listed(folder), tmp_path / "1" / "a.rec", "x", PackSettings(shard_size=25))
    mxnets = pack(listed(folder), tmp_path / "2" / "a.rec", "x", PackSettings(shard_size=25, writer="mxnet"))
    assert own.fingerprint == mxnets.fingerprint
    assert own.index is not None
    assert mxnets.index is not None
    assert own.index.splits == mxnets.index.splits


def test_the_same_command_again_changes_nothing_and_another_is_refused(folder: Path, tmp_path: Path) -> None:
    first = pack(listed(folder), tmp_path / "a.rec", "x")
    before = contents(first)
    assert pack(listed(folder), tmp_path / "a.rec", "x").fingerprint == first.fingerprint
    with pytest.raises(DataError, match="packed from another source or in another way"):
        pack(listed(folder), tmp_path / "a.rec", "x", PackSettings(resize=8))
    with pytest.raises(DataError, match="packed from another source or in another way"):
        pack(listed(folder)[1:], tmp_path / "a.rec", "x")
    assert contents(first) == before


def test_packing_never_destroys_other_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos.json").write_text('{"mine": 1}')
    (tmp_path / "old.rec").write_bytes(b"mine")
    (tmp_path / "lost-train-00000.rec").write_bytes(b"mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, message in {
        "photos.rec": "is not an index of packed images",
        "photos.json": r"ends in \.rec",
        "old.rec": "is there already",
        "lost.rec": "belongs to no set",
    }.items():
        with pytest.raises(DataError, match=message):
            pack(listed(folder), tmp_path / name, "x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_set_whose_name_begins_alike_is_no_stranger(folder: Path, tmp_path: Path) -> None:
    pack(listed(folder), tmp_path / "photos-256.rec", "x")
    before = contents(pack(listed(folder), tmp_path / "photos.rec", "x"))
    assert {"photos-256.json", "photos.json"} <= before.keys()


def test_two_cannot_pack_to_one_place(folder: Path, tmp_path: Path) -> None:
    @contextmanager
    def progress(total: int) -> Iterator[Advance]:
        with pytest.raises(DataError, match="another process is at work"):
            pack(listed(folder), tmp_path / "a.rec", "x")
        yield lambda count: None

    assert pack(listed(folder), tmp_path / "a.rec", "x", progress=progress).count("all") == 64


def test_broken_pictures_are_listed_and_too_many_stop(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(folder, root)
    for i in range(3):
        (root / "disc" / f"{i:02d}.png").write_bytes(b"broken")
    with pytest.raises(
        DataError, match=r"3 of the first \d+ pictures are broken, more than the 2 allowed of 64 \(the "
    ):
        pack(listed(root), tmp_path / "a.rec", "x", max_broken="4%")
    assert not (tmp_path / "a.json").exists()
    packed = pack(listed(root), tmp_path / "a.rec", "x", max_broken="3")
    assert packed.count("all") == 61
    skipped = [json.loads(line) for line in (tmp_path / "a.skipped.jsonl").read_text().splitlines()]
    assert sorted(line["key"] for line in skipped) == ["disc/00.png", "disc/01.png", "disc/02.png"]
    assert {line["problem"] for line in skipped} == {"cannot be decoded: no JPEG, PNG or WebP"}
    with pytest.raises(UserError, match="expected a share such as 1% or a number"):
        pack(listed(root), tmp_path / "b.rec", "x", max_broken="-1")


@pytest.mark.parametrize(("text", "of", "allowed"), [("29%", 100, 29), ("57%", 100, 57), ("0.5%", 399, 1), ("7", 9, 7)])
def test_so_many_may_be_broken(text: str, of: int, allowed: int) -> None:
    assert _limit(text)(of) == allowed


@pytest.mark.parametrize("text", ["nan%", "101%", "-1%", "x%", "%", "-1", "1.5", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a share such as 1% or a number"):
        _limit(text)


def test_where_no_picture_is_readable_there_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable picture; .*skipped\.jsonl names all 2"):
        pack(
            [Entry("a", ("nowhere", "gone")), Entry("b", ("nowhere", "gone"))], tmp_path / "a.rec", "x", max_broken="2"
        )
    with pytest.raises(DataError, match="lists no picture"):
        pack([], tmp_path / "b.rec", "x")


def picture(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Entry:
    image.save(tmp_path / name, **options)
    return Entry(name, ("file", str(tmp_path / name)), split="train")


def packed_bytes(entry: Entry, out: Path, settings: PackSettings) -> bytes:
    return pack([entry], out, "x", settings).shards("train")[0].open()[0].data


def test_bytes_are_kept_where_all_decoders_agree_and_no_enlarging(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    kept = picture(tmp_path, image, "a.jpg", quality=80)
    assert packed_bytes(kept, tmp_path / "a.rec", PackSettings(resize=40)) == (tmp_path / "a.jpg").read_bytes()
    small = packed_bytes(kept, tmp_path / "b.rec", PackSettings(resize=20))
    assert Image.open(io.BytesIO(small)).format == "JPEG"
    assert decode(small).size == (30, 20)
    png = packed_bytes(kept, tmp_path / "c.rec", PackSettings(encode="png", resize=100))
    assert Image.open(io.BytesIO(png)).format == "PNG"
    np.testing.assert_array_equal(np.asarray(decode(png)), np.asarray(Image.open(tmp_path / "a.jpg")))
    low = packed_bytes(kept, tmp_path / "d.rec", PackSettings(encode="jpeg", quality=10))
    assert len(low) < len((tmp_path / "a.jpg").read_bytes()) / 2


def test_transparency_and_orientation_are_settled_when_packing(tmp_path: Path) -> None:
    clear = picture(tmp_path, Image.new("RGBA", (20, 10), (255, 0, 0, 0)), "clear.png")
    white = Image.open(io.BytesIO(packed_bytes(clear, tmp_path / "a.rec", PackSettings())))
    assert (white.mode, white.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(tmp_path, Image.new("RGB", (20, 10), "red"), "turned.webp", exif=exif, lossless=True)
    upright = Image.open(io.BytesIO(packed_bytes(turned, tmp_path / "b.rec", PackSettings())))
    assert (upright.size, upright.format) == ((10, 20), "PNG")


def test_odd_names_and_texts_do_no_harm(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "caf\udce9"
    (root / "b\udcff").mkdir(parents=True)
    shutil.copy(picture_files(folder)[0], root / "b\udcff" / "\udcfe.png")
    packed = pack(listed(root), tmp_path / "a.rec", str(root))
    assert packed.classes == ("b\\xff",)
    (texts,) = packed.shards("all")[0].read_texts()
    assert texts.key == "b\\xff/\\xfe.png"
    assert describe_packed(packed)["classes"] == {"b\\xff": 1}
    (tmp_path / "l.jsonl").write_text(json.dumps({"path": str(picture_files(folder)[0]), "caption": "a \ud83d cat"}))
    both = pack(list_pictures(str(tmp_path / "l.jsonl")), tmp_path / "b.rec", "x", PackSettings(layout="captions"))
    (texts,) = both.shards("all")[0].read_texts()
    assert texts.caption == "a ? cat"
    with pytest.raises(DataError, match="plain file name"):
        pack(listed(root), tmp_path / "\udce9.rec", "x")


def test_reading_pictures_needs_no_torch() -> None:
    code = "import sys, svq.data.packing, svq.data.verify; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
