"""The folder source: classes, captions, and files that cannot be read."""

import builtins
import errno
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svq.data import open_images
from svq.data.encoding import decode
from svq.data.folder import picture_files
from svq.data.sources import native_size
from svq.errors import DataError


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of chunks with right checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces many pixels."""
    return png(header(width, height), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))


def test_the_class_is_the_name_of_the_folder_and_the_caption_lies_beside(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(folder, root)
    (root / "disc" / "00.txt").write_text("a disc\n")
    Image.new("RGB", (20, 30), "red").save(root / "loose.jpg")
    Image.new("RGB", (20, 30), "red").save(root / "box" / "deep.webp")
    images = open_images(str(root), 16)
    assert len(images) == 66
    assert images.images.shape == (66, 3, 16, 16)
    assert images.classes == ("box", "disc")
    assert images.captions[images.keys.index("disc/00.png")] == "a disc"
    assert images.labels[images.keys.index("loose.jpg")] == -1
    assert images.labels[images.keys.index("disc/00.png")] == 1


def test_what_cannot_be_read_is_skipped_counted_and_named(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(folder, root)
    whole = (root / "disc" / "00.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.webp").write_text("not a picture")
    (root / "enormous.png").write_bytes(huge_png(60_000, 60_000))
    images = open_images(str(root), 16)
    assert len(images) == 64
    assert [line.split(":")[0] for line in images.skipped] == ["cut.png", "empty.jpg", "enormous.png", "text.webp"]
    assert "3600000000" in images.skipped[2].replace(",", "") or "60000 x 60000" in images.skipped[2]


def test_pictures_of_kinds_that_are_not_read_are_named(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "phone"
    root.mkdir()
    for name in ("a.HEIC", "b.tiff", "notes.doc"):
        (root / name).write_bytes(b"anything")
    with pytest.raises(
        DataError, match=r"no readable picture in .*; 2 skipped, the first: a.HEIC: expected files ending"
    ):
        open_images(str(root), 16)
    shutil.copytree(folder / "box", root / "box")
    images = open_images(str(root), 16)
    assert len(images) == 32
    assert [line.split(":")[0] for line in images.skipped] == ["a.HEIC", "b.tiff"]
    assert native_size(str(root)) == 24


def test_odd_names_links_and_folders_do_no_harm(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "with space"
    (root / "box").mkdir(parents=True)
    picture = (folder / "box" / "00.png").read_bytes()
    with open(os.fsencode(root) + b"/box/caf\xe9.png", "wb") as file:
        file.write(picture)
    (root / "box" / "1.png").write_bytes(picture)
    (root / "box" / "1.txt").mkdir()
    (root / "disc").symlink_to(folder / "disc")
    (root / "loop").symlink_to(root)
    images = open_images(str(root), 16)
    assert len(images) == 34
    assert images.classes == ("box", "disc")
    assert "box/caf\\xe9.png" in images.keys


def test_a_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path).name == "disc":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"cannot read the folder .*disc \(Permission denied\)"):
        picture_files(folder)


def test_no_source_is_not_the_current_folder() -> None:
    with pytest.raises(DataError, match="no data source ''"):
        open_images("", 16)


def test_a_picture_too_large_in_bytes_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svq.data.encoding.MAX_BYTES", 100)
    with pytest.raises(DataError, match="101 bytes, more than the 100 allowed"):
        decode(b"x" * 101)


def test_exif_turns_a_picture_upright() -> None:
    import io

    image = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue()).size == (10, 20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no picture below"),
        (lambda p: (p / "a.png").write_text("no"), r"no readable picture in .* 1 skipped, the first: a\.png"),
    ],
)
def test_an_empty_source_is_an_error(tmp_path: Path, make, message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_images(str(tmp_path), 16)


def test_a_source_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"no data source 'pictur'; expected a folder of images, 'openmoji'"):
        open_images("pictur", 16)


def test_a_picture_that_may_be_read_by_now_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "p"
    shutil.copytree(folder, root)
    access, loads = os.access, builtins.open
    hidden = str(root / "disc" / "00.png")

    def refuse(path: Any, *arguments: Any, **words: Any) -> Any:
        if str(path) == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", hidden)
        return loads(path, *arguments, **words)

    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != hidden and access(path, mode))
    monkeypatch.setattr("builtins.open", refuse)  # as of a user who is not root
    assert len(open_images(str(root), 16)) == 63
    monkeypatch.undo()
    assert len(open_images(str(root), 16)) == 64


def test_a_changed_folder_is_read_anew(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(folder, root)
    before = open_images(str(root), 16)
    assert open_images(str(root), 16).fingerprint == before.fingerprint
    (root / "disc" / "00.png").unlink()
    after = open_images(str(root), 16)
    assert len(after) == 63
    assert after.fingerprint != before.fingerprint


def test_the_split_goes_with_the_content_and_not_with_the_name(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(folder / "disc", root / "renamed")
    renamed = open_images(str(root), 16)
    images = open_images(str(folder), 16)
    split = {Path(k).name: bool(v) for k, v in zip(images.keys, images.validation, strict=True) if "disc" in k}
    assert {Path(k).name: bool(v) for k, v in zip(renamed.keys, renamed.validation, strict=True)} == split
    assert 0 < images.validation.sum() < 20


def test_the_native_size_is_that_of_the_first_readable_picture(folder: Path, tmp_path: Path) -> None:
    assert native_size(str(folder)) == 24
    (tmp_path / "a.png").write_text("no")
    Image.new("RGB", (50, 40)).save(tmp_path / "b.png")
    (tmp_path / "a_short_header.png").write_bytes(png((b"IHDR", bytes(8))))
    (tmp_path / "a_text_that_swells.png").write_bytes(
        png(header(8, 8), (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))), (b"IDAT", b""))
    )
    assert native_size(str(tmp_path)) == 40


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "test"), ("train", "validation")])
def test_folders_of_splits_are_the_splits(folder: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    for name, files in zip(names, (range(8, 32), range(8)), strict=True):
        for kind in ("box", "disc"):
            (tmp_path / name / kind).mkdir(parents=True)
            for i in files:
                shutil.copy(folder / kind / f"{i:02d}.png", tmp_path / name / kind)
    shutil.copy(folder / "box" / "00.png", tmp_path / names[0] / "loose.png")
    images = open_images(str(tmp_path), 16)
    assert images.classes == ("box", "disc")
    assert [key for key, held_out in zip(images.keys, images.validation, strict=True) if held_out] == [
        f"{names[1]}/{kind}/{i:02d}.png" for kind in ("box", "disc") for i in range(8)
    ]
    assert images.labels[images.keys.index(f"{names[0]}/loose.png")] == -1


def test_a_class_may_be_called_train(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "box", tmp_path / "train")
    shutil.copytree(folder / "disc", tmp_path / "car")
    images = open_images(str(tmp_path), 16)
    assert images.classes == ("car", "train")
    assert 0 < images.validation.sum() < 20


def test_hidden_files_are_no_pictures(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "p")
    shutil.copytree(folder / "box", tmp_path / "p" / ".originals")
    (tmp_path / "p" / "disc" / "._00.png").write_bytes(b"\0\5\x16\7")
    images = open_images(str(tmp_path / "p"), 16)
    assert (len(images), images.classes, images.skipped) == (64, ("box", "disc"), ())


def test_classes_that_are_numbers_are_sorted_as_numbers(folder: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("0", "2", "10", "9")):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "box" / f"{i:02d}.png", tmp_path / name)
    assert open_images(str(tmp_path), 16).classes == ("0", "2", "9", "10")
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "box" / "09.png", tmp_path / "more")
    assert open_images(str(tmp_path), 16).classes == ("0", "10", "2", "9", "more")


def test_a_link_to_what_is_gone_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "disc" / "00.png", tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    images = open_images(str(tmp_path), 16)
    assert images.keys == ("a.png",)
    assert [line.split(":")[0] for line in images.skipped] == ["b.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no readable picture in .*; 1 skipped, the first: b\.png"):
        open_images(str(tmp_path), 16)


def test_the_class_behind_a_link_does_not_depend_on_the_disk(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for root, order in ((tmp_path / "one", ("disc", "link")), (tmp_path / "two", ("link", "disc"))):
        for name in order:
            if name == "link":
                (root / "link").symlink_to("disc")
            else:
                shutil.copytree(folder / "disc", root / "disc")
    assert [open_images(str(tmp_path / name), 16).classes for name in ("one", "two")] == [("disc",), ("disc",)]
