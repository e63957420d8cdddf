"""Synthetic captions: one line per picture in order, resumable, the same for any number of processes."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from svq.data.captioner import Captioner, CaptionSettings
from svq.data.captioning import write_captions
from svq.data.encoding import decode
from svq.data.entries import Entry
from svq.data.folder import entries, picture_files
from svq.data.packing import pack
from svq.data.sources import list_pictures
from svq.errors import UserError
from tests.data.captioning_model import save_tiny_blip, save_tiny_git

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CaptionSettings:
    return CaptionSettings(str(save_tiny_blip(tmp_path_factory.mktemp("blip"))), max_tokens=8)


@pytest.fixture
def photos(folder: Path, tmp_path: Path) -> Path:
    """20 pictures, one of them broken, one with a caption."""
    root = tmp_path / "photos"
    root.mkdir()
    for file in picture_files(folder)[::4]:
        shutil.copy(file, root / f"{file.parent.name}{file.name}")
    (root / "broken.png").write_text("no")
    (root / "box00.txt").write_text("a box of mine\n")
    return root


def listed(root: Path) -> Iterator[Entry]:
    return entries(root, picture_files(root))


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_picture_has_the_caption_that_the_model_gives_it_alone(
    photos: Path, model: CaptionSettings, tmp_path: Path
) -> None:
    out = tmp_path / "list.jsonl"
    result = write_captions(listed(photos), out, model, batch_size=5)
    files = picture_files(photos)
    assert result == (len(files), 1)
    rows = lines(out)
    assert [row["path"] for row in rows] == [str(file) for file in files]
    captioner = Captioner(model, CPU)
    for row in rows:
        if row["path"].endswith("broken.png"):
            assert row["synthetic"] == ""
            assert "cannot be decoded" in row["problem"]
        else:
            assert row["synthetic"] == captioner([decode(Path(row["path"]).read_bytes())])[0] != ""
    assert len({row["synthetic"] for row in rows}) > 3, "the captions do not depend on the pictures"
    assert {row["caption"] for row in rows} == {"", "a box of mine"}


def test_a_stopped_run_goes_on_behind_its_last_whole_line(photos: Path, model: CaptionSettings, tmp_path: Path) -> None:
    write_captions(listed(photos), tmp_path / "whole.jsonl", model, batch_size=4)

    def stop(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    out = tmp_path / "list.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write_captions(listed(photos), out, model, batch_size=4, advance=stop)
    assert not out.exists()
    partial = tmp_path / "list.jsonl.partial"
    assert len(lines(partial)) == 4
    with open(partial, "a") as file:
        file.write('{"path": "half a li')
    done: list[int] = []
    write_captions(listed(photos), out, model, batch_size=4, advance=done.append)
    assert done[0] == 4
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # A third run has nothing to do, and needs no model.
    again = write_captions(listed(photos), out, model)
    assert again.pictures == sum(done)


def test_several_processes_write_the_same_list(photos: Path, model: CaptionSettings, tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_captions(listed(photos), one, model, batch_size=3)
    write_captions(listed(photos), two, model, batch_size=2, workers=2)
    assert two.read_bytes() == one.read_bytes()


def test_a_list_of_other_pictures_or_by_another_model_is_not_gone_on_with(
    photos: Path, model: CaptionSettings, tmp_path: Path
) -> None:
    out = tmp_path / "list.jsonl"
    write_captions(listed(photos), out, model)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"list\.jsonl, line 1, was not written for these pictures"):
        write_captions(listed(photos), out, model._replace(beams=2))
    (photos / "box08.png").unlink()
    with pytest.raises(UserError, match=r"list\.jsonl, line 3, was not written for these pictures"):
        write_captions(listed(photos), out, model)
    assert out.read_bytes() == before


@pytest.mark.parametrize("text", ['{"mine": 1}', '{"mine": 1}\n', "mine\nmine"])
def test_a_file_of_others_is_left_as_it_is(photos: Path, model: CaptionSettings, tmp_path: Path, text: str) -> None:
    out = tmp_path / "mine.jsonl"
    out.write_text(text)
    with pytest.raises(UserError, match=r"mine\.jsonl, line 1, .* give another --out"):
        write_captions(listed(photos), out, model)
    assert out.read_text() == text


def test_an_empty_file_of_others_is_not_removed(model: CaptionSettings, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").touch()
    with pytest.raises(UserError, match="these are no files of their own"):
        write_captions([Entry("a", ("idx", "images", 0))], tmp_path / "mine.jsonl", model)
    assert (tmp_path / "mine.jsonl").exists()


def test_a_finished_list_without_its_last_newline_is_left_as_it_is(
    photos: Path, model: CaptionSettings, tmp_path: Path
) -> None:
    out = tmp_path / "list.jsonl"
    write_captions(listed(photos), out, model)
    out.write_bytes(whole := out.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"list\.jsonl, line 17, is not ended; end or delete it to go on, or give"):
        write_captions(listed(photos), out, model)
    assert out.read_bytes() == whole


def test_two_runs_cannot_write_one_list(photos: Path, model: CaptionSettings, tmp_path: Path) -> None:
    def rows() -> Iterator[Entry]:
        with pytest.raises(UserError, match="another process is writing"):
            write_captions([], tmp_path / "list.jsonl", model)
        yield from listed(photos)

    write_captions(rows(), tmp_path / "list.jsonl", model)


def test_beams_and_length_are_obeyed(model: CaptionSettings) -> None:
    image = [Image.effect_noise((32, 32), 90)]
    assert len(Captioner(model._replace(max_tokens=3), CPU)(image)[0].split()) <= 3
    assert Captioner(model._replace(beams=3), CPU)(image)[0]


def test_another_family_of_models_works_alike(tmp_path: Path) -> None:
    captioner = Captioner(CaptionSettings(str(save_tiny_git(tmp_path)), max_tokens=8), CPU)
    images = [Image.effect_noise((40, 50), sigma) for sigma in (20, 60, 90)]
    texts = captioner(images)
    assert texts == [captioner([image])[0] for image in images]
    assert len(set(texts)) > 1


def test_a_transparent_picture_of_any_mode_is_captioned(model: CaptionSettings) -> None:
    modes = [Image.new(mode, (20, 30)) for mode in ("RGBA", "LA", "L", "P", "1", "I;16", "CMYK")]
    assert len(Captioner(model, CPU)(modes)) == len(modes)


def test_a_model_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(name: str, timeout: float) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.model_info", offline)
    for name in ("nobody/nothing", str(tmp_path)):
        with pytest.raises(UserError, match=rf"no image-to-text model '{name}' \(.*a folder that holds it"):
            Captioner(CaptionSettings(name), CPU)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'svq\[caption-models\]'"):
        Captioner(CaptionSettings("any"), CPU)


def test_the_list_is_packed_with_raw_and_synthetic_captions(
    photos: Path, model: CaptionSettings, tmp_path: Path
) -> None:
    out = tmp_path / "list.jsonl"
    write_captions(listed(photos), out, model)
    packed = pack(list_pictures(str(out)), tmp_path / "set.rec", "captioned", max_broken="1")
    texts = {t.key: t for shard in packed.shards("all") for t in shard.read_texts()}
    for row in lines(out):
        if "problem" not in row:
            text = texts[row["key"]]
            assert (text.label, text.caption, text.synthetic) == (row.get("class"), row["caption"], row["synthetic"])
    # A list is captioned like a folder; its broken rows are not lost.
    again = write_captions(list_pictures(str(out)), tmp_path / "again.jsonl", model)
    assert again == (len(lines(out)), 1)
    with pytest.raises(UserError, match="these are no files of their own"):
        write_captions(list_pictures(str(tmp_path / "set.rec")), tmp_path / "packed.jsonl", model)
    assert not list(tmp_path.glob("packed.jsonl*"))
