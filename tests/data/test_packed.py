"""Packed sets: the same pictures, labels, captions and split; damage is found."""

import json
from pathlib import Path

import numpy as np
import pytest

from svq.data import ImageSet, open_images
from svq.data.packed import pack, verify_packed
from svq.data.sources import native_size
from svq.errors import DataError


@pytest.fixture
def packed(pictures: ImageSet, tmp_path: Path) -> Path:
    pack(pictures, tmp_path / "set.rec")
    return tmp_path / "set.rec"


def test_a_packed_set_is_the_same_set(pictures: ImageSet, packed: Path) -> None:
    images = open_images(str(packed), 16)
    np.testing.assert_array_equal(images.images, pictures.images)
    np.testing.assert_array_equal(images.labels, pictures.labels)
    np.testing.assert_array_equal(images.validation, pictures.validation)
    assert (images.classes, images.captions, images.keys) == (pictures.classes, pictures.captions, pictures.keys)
    assert images.fingerprint == pictures.fingerprint
    assert verify_packed(packed) == {"records": 64, "problems": []}
    assert native_size(str(packed)) == 16


def test_without_its_index_a_rec_file_still_has_classes(packed: Path) -> None:
    packed.with_suffix(".json").unlink()
    images = open_images(str(packed), 16)
    assert images.classes == ("0", "1")
    assert len(images) == 64


def test_one_flipped_byte_is_found(packed: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 0x40
    packed.write_bytes(data)
    assert "set.rec is missing or has changed" in verify_packed(packed)["problems"][0]


def test_a_file_cut_at_a_record_is_found(packed: Path) -> None:
    last = int(packed.with_suffix(".idx").read_text().splitlines()[-1].split("\t")[1])
    packed.write_bytes(packed.read_bytes()[:last])
    problems = " / ".join(verify_packed(packed)["problems"])
    assert "63 records, 64 announced" in problems
    assert f"no record begins at '{last}'" in problems


def test_an_index_of_another_kind_is_refused(packed: Path) -> None:
    packed.with_suffix(".json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(DataError, match="not an index of packed images"):
        open_images(str(packed), 16)


@pytest.mark.parametrize("content", ["[]", "{", '{"schema": "svq packed images 1", "count": 3}'])
def test_a_damaged_index_is_named(packed: Path, content: str) -> None:
    packed.with_suffix(".json").write_text(content)
    with pytest.raises(DataError, match=r"set\.json"):
        open_images(str(packed), 16)


def test_what_the_offsets_leave_out_is_found(packed: Path) -> None:
    packed.with_suffix(".json").unlink()
    packed.with_suffix(".idx").write_text("0\t0\n")
    assert "63 of 64 records are not named" in verify_packed(packed)["problems"][0]
    packed.write_bytes(b"")
    assert "holds no record" in verify_packed(packed)["problems"][0]


def test_packing_never_destroys_other_files(pictures: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "photos.json").write_text('{"mine": 1}')
    with pytest.raises(DataError, match="is not an index of packed images"):
        pack(pictures, tmp_path / "photos.rec")
    with pytest.raises(DataError, match=r"a packed file ends in \.rec"):
        pack(pictures, tmp_path / "photos.json")
    assert [p.name for p in tmp_path.iterdir()] == ["photos.json"]
    assert (tmp_path / "photos.json").read_text() == '{"mine": 1}'


def test_an_interrupted_repack_keeps_the_old_files(
    pictures: ImageSet, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(pictures, packed, interrupt)
    assert verify_packed(packed)["problems"] == []
    assert len(list(packed.parent.iterdir())) == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_images(str(tmp_path / "none.rec"), 16)
