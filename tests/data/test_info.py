"""What a set holds, in numbers: the same of a packed set as of the folder that it was packed from."""

from pathlib import Path

import pytest

from svq.cli.data import _show_description
from svq.data import ImageSet
from svq.data.entries import Entry
from svq.data.folder import entries, picture_files
from svq.data.info import contact_sheet, describe_images, describe_packed
from svq.data.packing import pack
from svq.errors import DataError


def test_a_packed_set_has_the_numbers_of_its_folder(pictures: ImageSet, folder: Path, tmp_path: Path) -> None:
    packed = pack(entries(folder, picture_files(folder)), tmp_path / "a.rec", str(folder))
    one, other = describe_images(pictures), describe_packed(packed)
    for name in ("count", "train", "validation", "classes", "captions", "skipped"):
        assert one[name] == other[name]
    assert one["classes"] == {"box": 32, "disc": 32}
    assert other["shorter_side"] == [24, 24, 24]
    assert other["formats"] == {"PNG": 64}
    assert contact_sheet(packed, 9, 12).shape == (9, 3, 12, 12)


def test_captions_and_skipped_pictures_are_counted(folder: Path, tmp_path: Path) -> None:
    file = str(picture_files(folder)[0])
    listed = [
        Entry("a", ("file", file), "x", "one two three", "one", "train"),
        Entry("b", ("file", file), "x", "one", "", "train"),
        Entry("c", ("nowhere", "is gone"), "y"),
    ]
    result = describe_packed(pack(listed, tmp_path / "a.rec", "s", max_broken="1"))
    assert result["captions"] == {"count": 2, "words": 2.0, "most_words": 3}
    assert result["synthetic_captions"] == {"count": 1, "words": 1.0, "most_words": 1}
    assert result["skipped"] == ("c: is gone",)
    assert result["classes"] == {"x": 2, "y": 0}


def test_a_sheet_of_unreadable_pictures_is_refused(folder: Path, tmp_path: Path) -> None:
    packed = pack(entries(folder, picture_files(folder)), tmp_path / "a.rec", str(folder))
    for shard in packed.shards("all"):
        shard.rec.write_bytes(shard.rec.read_bytes().replace(b"\x89PNG", b"\x89XXX"))
    with pytest.raises(DataError, match="no readable picture"):
        contact_sheet(packed, 4, 8)


def test_of_many_classes_the_largest_are_shown_and_the_others_counted(capsys: pytest.CaptureFixture[str]) -> None:
    classes = {f"kind {i}": i for i in range(1, 31)}
    result = {"count": 465, "train": 400, "validation": 65, "skipped": [], "fingerprint": "0" * 64, "classes": classes}
    _show_description(result, as_json=False)
    shown = capsys.readouterr().out
    assert "class kind 30" in shown
    assert "class kind 10 " not in shown
    assert "10 more classes" in shown
