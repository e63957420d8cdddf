"""Fetching: what becomes of each row of a list, against a server on this machine with good and bad pictures."""

import io
import json
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svq.data.encoding import decode
from svq.data.fetching import Fetched, FetchSettings, fetch
from svq.data.lists import read_rows
from svq.data.packing import pack
from svq.data.sources import list_pictures
from svq.errors import DataError, UserError

TIMEOUT_S = 8  # this machine may be busy
SETTINGS = FetchSettings(size=64, threads=8, timeout=TIMEOUT_S, retries=0)


def huge() -> bytes:
    """A small file of 70 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 7_000)).save(buffer, "PNG")
    return buffer.getvalue()


def picture(width: int, height: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {"/large.jpg": picture(200, 100), "/small.jpg": picture(50, 40), "/drawn.png": picture(90, 120, "PNG")}
REASONS = {  # what each bad address is answered with, and the reason that must be written down
    "/missing.jpg": "HTTP Error 404",
    "/slow.jpg": "timed out",
    "/cut.jpg": "IncompleteRead",
    "/broken.jpg": "Image decoding error",
    "/page.html": "Image decoding error",
    "/forbidden.jpg": "disallowed by X-Robots-Tag",
    "/huge.png": "pixels",
}

BODIES = {
    "/broken.jpg": b"\xff\xd8\xff no",
    "/page.html": b"<html>",
    "/forbidden.jpg": picture(9, 9),
    "/huge.png": huge(),
}
SMALL = picture(30, 30)


class Server(BaseHTTPRequestHandler):
    over = Event()
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/slow.jpg":
            self.over.wait(60)
            return
        content = PICTURES.get(self.path) or BODIES.get(self.path, SMALL)
        self.send_response(404 if self.path == "/missing.jpg" else 200)
        self.send_header("Content-Length", str(len(content) + (self.path == "/cut.jpg")))
        if self.path == "/forbidden.jpg":
            self.send_header("X-Robots-Tag", "noai")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Patient(ThreadingHTTPServer):
    request_queue_size = 64  # all addresses are asked for at once


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    os.environ["no_proxy"] = "127.0.0.1"
    with Patient(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Server.over.set()
        server.shutdown()


class Run:
    """The list, fetched once for all tests of this file."""

    def __init__(self, root: Path, address: str) -> None:
        self.list, self.out, self.done = root / "list.csv", root / "photos", []
        names = [*PICTURES, *REASONS]
        lines = [f'{address}{name},"a, {name}",synthetic {name}' for name in names]
        lines += [",no address,", "one column too few", f"http://127.0.0.1:9{names[0]},nobody listens,"]
        self.list.write_text("photo,caption,synthetic\n" + "\n".join(lines) + "\n")
        self.rows = len(lines)
        began = time.perf_counter()
        self.result = self.fetch()
        self.seconds = time.perf_counter() - began

    def fetch(self) -> Fetched:
        return fetch(self.list, self.out, SETTINGS, {"url": "photo"}, self.done.append)

    def read(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(address: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("fetch"), address)


def test_every_row_is_a_picture_or_a_failure_with_its_reason(run: Run) -> None:
    assert run.result.rows == run.rows == len(run.read("list.jsonl")) + len(run.read("failed.jsonl"))
    assert run.result.pictures == len(PICTURES) == len(run.read("list.jsonl"))
    assert sum(run.result.reasons.values()) == run.rows - len(PICTURES)
    told = {row["row"]: row["reason"] for row in run.read("failed.jsonl")}
    for number, reason in enumerate(REASONS.values(), start=len(PICTURES) + 1):
        assert reason in told[number]
    bad = list(told.values())
    assert "the row names no address" in bad
    assert any("1 columns, 3 expected" in reason for reason in bad)
    assert any("Connection refused" in reason for reason in bad)


def test_the_failures_are_a_list_that_can_be_fetched_again(run: Run) -> None:
    rows = list(read_rows(run.out / "failed.jsonl", "url"))
    assert len(rows) == run.rows - len(PICTURES)
    addresses = [row["url"] for row in rows if isinstance(row, dict) and row["url"]]
    assert {address[address.rindex("/") :] for address in addresses} >= set(REASONS)


def test_a_silent_server_costs_its_timeout_and_no_more(run: Run) -> None:
    assert run.seconds < 90, "most of it the start of img2dataset"
    assert Server.asked.count("/slow.jpg") == 1


def test_pictures_are_scaled_by_their_shorter_side_and_never_enlarged(run: Run) -> None:
    sizes = {row["caption"]: decode((run.out / row["path"]).read_bytes()).size for row in run.read("list.jsonl")}
    assert sizes == {"a, /large.jpg": (128, 64), "a, /small.jpg": (50, 40), "a, /drawn.png": (64, 85)}
    small = next(row for row in run.read("list.jsonl") if "small" in row["caption"])
    assert (run.out / small["path"]).read_bytes() == PICTURES["/small.jpg"]


def test_the_list_can_be_packed(run: Run, tmp_path: Path) -> None:
    packed = pack(list_pictures(str(run.out / "list.jsonl")), tmp_path / "set.rec", "fetched")
    texts = [text for shard in packed.shards("all") for text in shard.read_texts()]
    assert {(t.caption, t.synthetic) for t in texts} == {(f"a, {name}", f"synthetic {name}") for name in PICTURES}


def test_run_again_it_has_nothing_to_fetch(run: Run) -> None:
    asked, list_before = len(Server.asked), (run.out / "list.jsonl").read_bytes()
    assert run.fetch() == run.result
    assert len(Server.asked) == asked
    assert (run.out / "list.jsonl").read_bytes() == list_before


def test_a_folder_that_was_not_finished_is_fetched_anew(run: Run) -> None:
    asked = len(Server.asked)
    (run.out / "pictures" / "00000_stats.json").unlink()
    assert run.fetch() == run.result
    assert len(Server.asked) > asked


def test_another_list_or_size_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match=r"pictures of another fetch \(other size\); give another --out"):
        fetch(run.list, run.out, SETTINGS._replace(size=32), {"url": "photo"})
    other = run.list.with_name("other.csv")
    other.write_text("photo\nhttp://127.0.0.1:9/a.jpg\n")
    with pytest.raises(UserError, match=r"another fetch \(other list\)"):
        fetch(other, run.out, SETTINGS, {"url": "photo"})


def test_what_is_wrong_with_the_list_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a,b,c,d\n1,2,3,4\n")
    with pytest.raises(DataError, match="4 columns and no header that names one of addresses"):
        fetch(tmp_path / "list.csv", tmp_path / "out", SETTINGS)
    with pytest.raises(DataError, match="4 columns"):  # and not that the folder holds another fetch
        fetch(tmp_path / "list.csv", tmp_path / "out", SETTINGS, {"url": "address"})
    with pytest.raises(DataError, match="no such file"):
        fetch(tmp_path / "none.csv", tmp_path / "out2", SETTINGS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="not empty and holds no fetch"):
        fetch(tmp_path / "list.csv", tmp_path / "mine", SETTINGS)


def test_without_img2dataset_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"pip install 'svq\[fetch\]'.*uv tool install img2dataset"):
        fetch(tmp_path / "list.csv", tmp_path / "out", SETTINGS)


def test_an_img2dataset_that_dies_is_told_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("http://127.0.0.1:9/a.jpg,a caption\n")
    monkeypatch.setattr("svq.data.fetching._program", lambda: "false")
    with pytest.raises(UserError, match=r"img2dataset stopped after 0 of 1 folders; .*img2dataset\.log says why"):
        fetch(tmp_path / "list.csv", tmp_path / "out", SETTINGS)


def test_when_it_is_stopped_nothing_goes_on_fetching(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("http://127.0.0.1:9/a.jpg,a caption\n")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr("svq.data.fetching._program", lambda: str(program))

    def stop(*_: object) -> int:
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr("svq.data.fetching._report", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "list.csv", tmp_path / "out", SETTINGS)
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "status")
    for _ in range(100):
        if not child.exists() or "(zombie)" in child.read_text():
            return
        time.sleep(0.1)
    pytest.fail("a process of the fetch is still there")
