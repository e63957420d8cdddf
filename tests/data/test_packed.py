"""Packed sets: the same pictures, labels, captions and split as the source; a bad index is refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from svq.cli.source import open_pictures
from svq.data import ImageSet, open_images
from svq.data.folder import entries, picture_files
from svq.data.packed import PackedSet, open_index
from svq.data.packed_source import sample_packed
from svq.data.packing import PackSettings, pack
from svq.data.recordio import ImageRecord, pack_image, write_record
from svq.data.sources import native_size
from svq.errors import DataError


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> PackedSet:
    return pack(entries(folder, picture_files(folder)), tmp_path / "set.rec", str(folder), PackSettings(shard_size=20))


def test_a_packed_set_is_the_same_set(pictures: ImageSet, packed: PackedSet) -> None:
    images = open_images(str(packed.path.with_suffix(".rec")), 16)
    np.testing.assert_array_equal(images.images, pictures.images)
    np.testing.assert_array_equal(images.labels, pictures.labels)
    np.testing.assert_array_equal(images.validation, pictures.validation)
    assert (images.classes, images.captions, images.keys) == (pictures.classes, pictures.captions, pictures.keys)
    assert images.fingerprint == pictures.fingerprint
    assert open_images(str(packed.path), 16).fingerprint == pictures.fingerprint
    assert native_size(str(packed.path)) == 24


def test_each_split_has_shards_of_its_own_in_shuffled_order(pictures: ImageSet, packed: PackedSet) -> None:
    held_out = int(pictures.validation.sum())
    assert [s.count for s in packed.shards("train")] == [20, 20, 64 - held_out - 40]
    assert [s.count for s in packed.shards("val")] == [held_out]
    assert packed.shards("all") == packed.shards("train") + packed.shards("val")
    keys = np.concatenate([s.open().keys for s in packed.shards("train")])
    assert set(keys) == set(pictures.indices("train"))
    assert not np.all(np.diff(keys) > 0)


def test_any_record_is_read_by_its_number_also_in_another_process(folder: Path, packed: PackedSet) -> None:
    shard = packed.shards("train")[1]
    records = pickle.loads(pickle.dumps(shard.open()))  # noqa: S301
    texts = list(shard.read_texts())
    for i in (7, 0, 19):
        assert records[i].id == records.keys[i]
        assert records[i].data == (folder / texts[i].key).read_bytes()
        assert packed.classes[int(records[i].labels[0])] == texts[i].label
    with pytest.raises(IndexError, match="20 records, asked for number 20"):
        records[20]


def test_a_rec_file_from_elsewhere_is_a_set_too(folder: Path, tmp_path: Path) -> None:
    with open(tmp_path / "other.rec", "wb") as rec, open(tmp_path / "other.idx", "w") as idx:
        for i, file in enumerate(picture_files(folder)):
            record = ImageRecord(i, (float(i % 3),), file.read_bytes())
            idx.write(f"{i}\t{write_record(rec, pack_image(record))}\n")
    images = open_images(str(tmp_path / "other.rec"), 16)
    assert images.classes == ("0", "1", "2")
    assert len(images) == 64
    assert 0 < images.validation.sum() < 20
    # Written again with other classes: neither its size nor its first record is another one.
    with open(tmp_path / "other.rec", "wb") as rec:
        for i, file in enumerate(picture_files(folder)):
            write_record(rec, pack_image(ImageRecord(i, (float(i % 2),), file.read_bytes())))
    assert open_images(str(tmp_path / "other.rec"), 16).classes == ("0", "1")
    with pytest.raises(DataError, match=r"no held-out pictures.* pack it anew"):
        open_pictures(str(tmp_path / "other.rec"), 16, "torch")
    (tmp_path / "other.idx").unlink()
    with pytest.raises(DataError, match=r"no such file: .*other\.idx"):
        open_images(str(tmp_path / "other.rec"), 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not an index of packed images"),
        ("{", "is not an index of packed images"),
        (json.dumps({"format": "other"}), "is not an index of packed images"),
    ],
)
def test_an_index_of_another_kind_is_refused(packed: PackedSet, content: str, message: str) -> None:
    packed.path.write_text(content)
    with pytest.raises(DataError, match=rf"set\.json {message}"):
        open_images(str(packed.path), 16)


def test_an_index_names_only_files_beside_it(packed: PackedSet) -> None:
    packed.path.write_text(packed.path.read_text().replace("set-val-00000.rec", "../set-val-00000.rec"))
    with pytest.raises(DataError, match=r"splits\.val\.0\.rec\.name"):
        open_index(packed.path)


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no packed set .*none\.rec"):
        open_images(str(tmp_path / "none.rec"), 16)


def test_a_sample_is_what_the_prepared_set_holds(pictures: ImageSet, packed: PackedSet) -> None:
    for split in ("train", "val", "all"):
        some = sample_packed(packed.path, 16, split, 20)
        whole = sample_packed(packed.path, 16, split, 1000)
        assert len(whole) == pictures.count(split)
        assert len(some) == min(20, pictures.count(split))
        assert some.classes == pictures.classes
        known = {image.tobytes(): i for i, image in enumerate(pictures.images)}
        places = [known[image.tobytes()] for image in whole.images]
        assert len(set(places)) == len(places)
        assert whole.labels.tolist() == pictures.labels[places].tolist()
        assert whole.validation.tolist() == pictures.validation[places].tolist()
        np.testing.assert_array_equal(some.images, whole.images[: len(some)])
        assert places != sorted(places)


def test_a_sample_of_a_set_from_elsewhere_has_its_split_and_names_what_is_broken(folder: Path, tmp_path: Path) -> None:
    broken = (folder / "box" / "00.png").read_bytes()[:-60]
    with open(tmp_path / "o.rec", "wb") as rec, open(tmp_path / "o.idx", "w") as idx:
        for i, data in enumerate([file.read_bytes() for file in picture_files(folder)] + [broken]):
            idx.write(f"{i}\t{write_record(rec, pack_image(ImageRecord(i, (float(10 * (i % 12)),), data)))}\n")
    prepared = open_images(str(tmp_path / "o.rec"), 16)
    assert prepared.classes[:3] == ("0", "10", "20")
    assert prepared.classes[-1] == "110"
    for split in ("train", "val", "all"):
        sample = sample_packed(tmp_path / "o.rec", 16, split, 1000)
        assert len(sample) == prepared.count(split)
        assert sorted(sample.classes[n] for n in sample.labels) == sorted(
            prepared.classes[n] for n in prepared.labels[prepared.indices(split)]
        )
    assert len(sample.skipped) == 1
    assert sample.skipped[0].startswith("o.rec, record 64: ")
