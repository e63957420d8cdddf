"""Labels: captions as CLIP's numbers beside the class, and back."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svq.data.entries import Entry
from svq.data.folder import picture_files
from svq.data.labels import WIDTHS, Layout, clip_tokenizer, join_labels, layout_of, split_labels
from svq.data.packed import open_index
from svq.data.packed_source import entries, sample_packed
from svq.data.packing import PackSettings, pack
from svq.data.recordio import ImageRecord, pack_image, write_record
from svq.errors import UserError

# "a photo of a cat" as in the notebook of CLIP's authors: start, 320 a, 1125 photo, 539 of, 320 a, 2368 cat, end.
CAT = [49406, 320, 1125, 539, 320, 2368, 49407]


def test_captions_are_77_ids_of_clip() -> None:
    labels = join_labels("class+captions", 3, "a photo of a cat", "")
    assert len(labels) == WIDTHS["class+captions"] == 155
    assert labels[:9] == (3, *CAT, 0)
    assert set(labels[8:]) == {0}
    long = join_labels("captions", 0, "cat " * 100, "Cat")
    assert len(long) == WIDTHS["captions"] == 154
    assert (long[0], long[76]) == (49406, 49407)
    assert long[77:81] == (49406, 2368, 49407, 0)


def test_the_tokenizer_remembers_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svq.data.labels.WORDS", 10)
    before = join_labels("captions", 0, "<start_of_text> a photo of a cat", "")
    for i in range(20):
        join_labels("captions", 0, f"word{'x' * i} other{'y' * i}", "")
    assert len(clip_tokenizer().cache) == 10
    assert join_labels("captions", 0, "<start_of_text> a photo of a cat", "") == before


def test_a_word_that_never_ends_is_cut_before_the_tokenizer_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time grows with the square of a word's length: half a minute for this one."""
    known, seen = clip_tokenizer(), []

    def tokenizer(captions: list[str]) -> Any:
        seen.extend(captions)
        return known(captions)

    tokenizer.cache = known.cache  # type: ignore[attr-defined]
    monkeypatch.setattr("svq.data.labels.clip_tokenizer", lambda: tokenizer)
    assert join_labels("captions", 0, "ab" * 10_000, "")[76] == 49407
    assert [len(caption) for caption in seen] == [2000]


@pytest.mark.parametrize("layout", WIDTHS)
def test_labels_come_apart_as_they_were_put_together(layout: Layout) -> None:
    rows = [join_labels(layout, 5, "a cat", "a dog"), join_labels(layout, -1, "", "a dog")]
    labels = split_labels(layout, np.array(rows, np.float32))
    assert layout_of(len(rows[0])) == layout
    if labels.classes is not None:
        assert labels.classes.tolist() == [5, -1]
    if labels.raw is not None and labels.synthetic is not None:
        assert labels.raw.shape == labels.synthetic.shape == (2, 77)
        assert labels.raw[0, :4].tolist() == [49406, 320, 2368, 49407]
        assert not labels.raw[1].any()
        assert labels.synthetic[0].tolist() == labels.synthetic[1].tolist()
    assert (labels.classes is None, labels.raw is None) == (layout == "captions", layout == "class")


def test_a_set_with_captions_holds_them_as_numbers_and_as_text(folder: Path, tmp_path: Path) -> None:
    listed = [
        Entry(f.name, ("file", str(f)), f.parent.name, "A Photo of a cat", "a dog", "train")
        for f in picture_files(folder)[:5]
    ]
    packed = pack(listed, tmp_path / "a.rec", "x", PackSettings(layout="captions"))
    shard = packed.shards("train")[0]
    assert shard.open()[2].labels[: len(CAT)] == tuple(CAT)
    assert {(t.caption, t.synthetic) for t in shard.read_texts()} == {("A Photo of a cat", "a dog")}


def test_captions_of_a_rec_file_from_elsewhere_are_read_back(folder: Path, tmp_path: Path) -> None:
    picture = picture_files(folder)[0].read_bytes()
    labels = join_labels("captions", 0, "a photo of a cat", "two dogs, running!")
    with open(tmp_path / "a.rec", "wb") as rec:
        write_record(rec, pack_image(ImageRecord(0, labels, picture)))
    (tmp_path / "a.idx").write_text("0\t0\n")
    packed = open_index(tmp_path / "a.rec")
    assert packed.layout == "captions"
    ((_, entry),) = entries(packed)
    assert (entry.label, entry.caption, entry.synthetic) == (None, "a photo of a cat", "two dogs , running !")
    again = pack([entry], tmp_path / "b.rec", "x", PackSettings(layout="captions"))
    assert again.shards("all")[0].open()[0].labels == labels


def test_a_sample_needs_no_tokenizer(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [Entry(f.name, ("file", str(f)), f.parent.name, "a cat") for f in picture_files(folder)]
    packed = pack(listed, tmp_path / "a.rec", "x", PackSettings(layout="class+captions"))
    clip_tokenizer.cache_clear()
    monkeypatch.setattr("svq.data.labels.find_spec", lambda name: None)
    sample = sample_packed(packed.path, 16, "all", 20)
    assert (len(sample), sample.classes) == (20, ("box", "disc"))
    monkeypatch.undo()
    clip_tokenizer.cache_clear()


def test_without_the_tokenizer_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_tokenizer.cache_clear()
    monkeypatch.setattr("svq.data.labels.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'svq\[captions\]'"):
        pack([Entry("a", ("nowhere", ""))], tmp_path / "a.rec", "x", PackSettings(layout="captions"))
    assert list(tmp_path.iterdir()) == []


def test_only_the_tokenizer_is_loaded() -> None:
    clip_tokenizer()
    assert "open_clip" not in sys.modules
