"""Lists of pictures and captions: columns are found, and rows that make no sense are counted, not fatal."""

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from svq.data import lists
from svq.data.entries import Entry, load
from svq.data.lists import entries, read_rows
from svq.data.packing import pack
from svq.data.sources import list_pictures, open_images
from svq.data.stream import stream
from svq.errors import DataError, UserError

ROWS = [("disc/00.png", 'a "round disc', "a disc"), ("box/01.png", "a box, sharp", "")]


def expected(root: Path) -> list[Entry]:
    return [Entry(image, ("file", str(root / image)), None, raw, synthetic) for image, raw, synthetic in ROWS]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_lists_of_yfcc15m_have_tabs_or_commas_and_no_header(folder: Path, tmp_path: Path) -> None:
    tabs = write(tmp_path / "a.tsv", "".join("\t".join(row) + "\n" for row in ROWS))
    assert list(entries(tabs, folder)) == expected(folder)
    commas = write(tmp_path / "a.csv", 'disc/00.png,"a ""round disc",a disc\nbox/01.png,"a box, sharp",\n')
    assert list(entries(commas, folder)) == expected(folder)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_are_found_by_their_usual_names(folder: Path, tmp_path: Path, ending: str) -> None:
    rows = [
        {"uid": "u1", "Filename": "disc/00.png", "text": "früh", "label": 7, "split": "test"},
        {"uid": "u2", "Filename": "box/00.png", "text": "", "label": None, "split": "train"},
    ]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        comma = "," if ending == "csv" else "\t"
        cells = [list(rows[0]), *([str(v if v is not None else "") for v in row.values()] for row in rows)]
        write(path, "\ufeff" + "".join(comma.join(row) + "\n" for row in cells))
    one, two = entries(path, folder)
    assert one == Entry("u1", ("file", str(folder / "disc/00.png")), "7", "früh", "", "val")
    assert two == Entry("u2", ("file", str(folder / "box/00.png")), None, "", "", "train")
    assert load(one.place) == (folder / "disc/00.png").read_bytes()


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path,photo_of,what\na.png,a cat,cat\n")
    (entry,) = entries(path, columns={"caption": "photo_of", "class": "what"})
    assert (entry.caption, entry.label, entry.place) == ("a cat", "cat", ("file", str(tmp_path / "a.png")))
    with pytest.raises(DataError, match="has no column 'none' for caption; it has: path, photo_of, what"):
        list(entries(path, columns={"caption": "none"}))
    with pytest.raises(UserError, match="unknown kind of column 'captoin'; did you mean 'caption'"):
        list(entries(path, columns={"captoin": "x"}))


def test_a_row_that_makes_no_sense_is_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "image,split\ndisc/00.png,train\ndisc/01.png,train,more\n,train\ndisc/02.png,sometimes\n\ndisc/gone.png,val\n",
    )
    packed = pack(list_pictures(str(path), root=folder), tmp_path / "a.rec", "x", max_broken="4")
    assert packed.count("all") == 1
    problems = [json.loads(line)["problem"] for line in (tmp_path / "a.skipped.jsonl").read_text().splitlines()]
    assert sorted(problem.split(":")[0] for problem in problems) == [
        "[Errno 2] No such file or directory",
        "line 3 has 3 columns, 2 expected",
        "the row names no picture",
        "unknown split 'sometimes'; known",
    ]


def test_a_damaged_line_of_jsonl_is_skipped_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"path": "a.png", "caption": "one"}\n{"path"\n[]\n')
    good, *bad = entries(path)
    assert (good.key, good.caption) == ("a.png", "one")
    assert [entry.place[0] for entry in bad] == ["nowhere", "nowhere"]
    for entry, message in zip(bad, ("line 2 is not JSON", "line 3 is not a JSON object"), strict=True):
        with pytest.raises(DataError, match=message):
            load(entry.place)


def test_each_line_of_jsonl_has_its_own_columns(tmp_path: Path) -> None:
    rows = [
        {"key": "broken", "problem": "no path, as in the lists of svq data captions"},
        {"path": "a.png", "text": "a title"},
        {"file": "c/b.png", "class": "c", "Caption": "hello", "text": "a title", "split": "val"},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    broken, one, two = entries(path)
    assert (broken.key, broken.place) == ("broken", ("nowhere", "the row names no picture"))
    assert one == Entry("a.png", ("file", str(tmp_path / "a.png")), None, "a title")
    assert two == Entry("c/b.png", ("file", str(tmp_path / "c/b.png")), "c", "hello", "", "val")


def test_a_named_column_of_jsonl_may_come_late_but_must_come(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"path": "a.png", "text": "a"}\n{"path": "b.png", "said": "b", "text": "x"}\n')
    assert [entry.caption for entry in entries(path, columns={"caption": "said"})] == ["", "b"]
    with pytest.raises(DataError, match="has no column 'sad' for caption; it has: path, text"):
        next(entries(path, columns={"caption": "sad"}))


def test_a_jsonl_list_of_as_many_names_as_rows_fills_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "".join(f'{{"{i:0200d}.png": "a caption"}}\n' for i in range(5000)))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"no column of pictures; it has: 0{200}\.png; name one"):
        next(entries(path))
    assert tracemalloc.get_traced_memory()[1] < 300_000
    tracemalloc.stop()


def test_a_picture_in_the_place_of_its_path_is_not_said_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"image\n{'iVBORw0K' * 1000}\na.png\n")
    inside, beside = entries(path)
    assert (inside.key, beside.key) == ("row 1", "a.png")
    with pytest.raises(DataError, match=r"^a picture is named by its path, and 8,000 characters are none$"):
        load(inside.place)


def test_a_line_of_jsonl_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LINE", 30)
    path = write(tmp_path / "a.jsonl", '[{"path": "a.png"},\n{"path": "b.png"}\n' + "[1, 2, 3]" * 20 + "\n{}")
    _, good, long, empty = entries(path)
    assert (good.key, empty.place) == ("b.png", ("nowhere", "the row names no picture"))
    with pytest.raises(DataError, match="line 3 is longer than 30 bytes; one JSON object a line is expected"):
        load(long.place)
    whole = write(tmp_path / "b.jsonl", json.dumps([{"path": "a.png"}] * 20))
    with pytest.raises(DataError, match="holds no JSON object"):
        next(entries(whole))


def test_an_empty_line_is_no_row(tmp_path: Path) -> None:
    rows = ['{"path": "a.png"}', "", " \t", '{"path": "b.png"}', ""]
    assert [entry.key for entry in entries(write(tmp_path / "a.jsonl", "\n".join(rows) + "\n"))] == ["a.png", "b.png"]


def test_a_row_that_only_python_cannot_bear_is_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    rows = ['{"path": "a\\u0000.png"}', "[" * 100_000, '{"path": "a\\ud800.png"}', '{"path": "disc/00.png"}']
    path = write(tmp_path / "a.jsonl", "\n".join(rows))
    nul, deep, lone, good = entries(path, folder)
    said = (
        r"the path 'a\\x00\.png' has a character",
        "line 2 is not JSON: maximum",
        r"the path 'a\\ud800\.png' has a char",
    )
    for entry, message in zip((nul, deep, lone), said, strict=True):
        with pytest.raises(DataError, match=message):
            load(entry.place)
    assert load(good.place)
    assert pack(list_pictures(str(path), root=folder), tmp_path / "a.rec", "x", max_broken="3").count("all") == 1
    assert [streamed.problem[:8] for streamed in next(stream([nul, good], 8, 2))] == ["the path", ""]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b,c,d\n", "has 4 columns and no header that names one of pictures"),
        ("a.csv", "", "has 0 columns"),
        ("a.csv", "path," + "x" * 200_000, r"a\.csv, line 1, cannot be read: field larger than field limit"),
        ("a.csv", 'path,"text\n' + "x" * 200_000, r"a\.csv, line 1, cannot be read: field larger than field limit"),
        ("a.jsonl", "\n", "holds no JSON object"),
        ("a.jsonl", '{"place": "a.png"}', "no column of pictures; it has: place; name one with --column image=NAME"),
        ("a.parquet", "text", "is not a Parquet file"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(entries(write(tmp_path / name, text)))


def test_a_name_that_is_no_text_is_found(folder: Path, tmp_path: Path) -> None:
    """As `svq data caption` lists it: bytes that are no UTF-8 as lone surrogates (PEP 383)."""
    shutil.copy(folder / "disc" / "00.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    (entry,) = entries(write(tmp_path / "a.jsonl", json.dumps({"path": os.fsdecode(b"caf\xe9.png")})))
    assert entry.key == r"caf\xe9.png"
    assert load(entry.place) == (folder / "disc" / "00.png").read_bytes()
    assert pack([entry], tmp_path / "a.rec", "x").count("all") == 1


def test_a_header_of_other_names_is_not_taken_for_a_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "title,photo_of\na cat,a.png\n")
    with pytest.raises(DataError, match=r"has 2 columns and no header that .* with --column image=NAME"):
        list(entries(path))
    (entry,) = entries(path, columns={"image": "photo_of"})
    assert (entry.key, entry.caption) == ("a.png", "a cat")


def test_pictures_that_lie_in_a_parquet_file_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"image": [{"bytes": b"x" * 99, "path": "a.png"}]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"the column 'image' holds struct<.*>, not text; .* written as files first"):
        list(entries(tmp_path / "a.parquet"))
    write_table(pyarrow.table({"image": [b"x"], "url": ["https://a.b/c.png"]}), tmp_path / "both.parquet")
    assert list(read_rows(tmp_path / "both.parquet", "url")) == [{"url": "https://a.b/c.png"}]
    write_table(pyarrow.table({"image": ["a.png"], "class": [3], "more": [b"x"]}), tmp_path / "b.parquet")
    assert [(entry.key, entry.label) for entry in entries(tmp_path / "b.parquet")] == [("a.png", "3")]


def test_a_list_is_packed_before_it_is_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path\na.png\n")
    with pytest.raises(DataError, match=r"packed first: svq data pack .*a\.csv --out NAME\.rec"):
        open_images(str(path), 16)
    with pytest.raises(DataError, match=r"no such file: .*none\.csv"):
        list(list_pictures(str(tmp_path / "none.csv")))


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("image\na.png\n")
    with pytest.raises(DataError, match=r"nowhere, in which the paths of .*l\.csv are to begin, is no folder"):
        list(entries(tmp_path / "l.csv", root=tmp_path / "nowhere"))
