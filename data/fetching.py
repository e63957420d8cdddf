"""Pictures of a published list of addresses and captions, fetched by img2dataset into a folder and a list of them.

    DIR/list.jsonl       a line for each picture that came: path, caption, synthetic; `svq data pack` reads it
    DIR/failed.jsonl     a line for each row that gave none: row, url, caption, synthetic, and the reason
    DIR/pictures/        the pictures in folders of 10,000, and img2dataset's own account of each folder
    DIR/urls.parquet     the rows that name an address, as img2dataset is given them
    DIR/img2dataset.log  its last words

What is special: every row of the list is in one of the two files. img2dataset runs as a program of its own, so
that it may live in another environment, with the older packages that it asks for, and be found on the PATH.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from svq.data.encoding import MAX_PIXELS
from svq.data.imageset import Advance, nothing
from svq.data.lists import read_rows
from svq.errors import DataError, UserError
from svq.files import new_file
from svq.provenance import file_sha256

FOLDER = 10_000  # pictures of one folder; so the name of a picture, its folder and its place there, is its number
WRITTEN = 4_096  # rows of the list that are held in memory
ROW = {"row": "int64", "url": "string", "caption": "string", "synthetic": "string"}  # of urls.parquet


class FetchSettings(NamedTuple):
    """How pictures are fetched.

    Attributes:
        size: shorter side in pixels to which larger pictures are scaled.
        processes: of img2dataset, each with its own threads.
        threads: of each process, which wait for servers.
        timeout: seconds that a server may be silent.
        retries: further tries of what did not come.
    """

    size: int = 256
    processes: int = 1
    threads: int = 32
    timeout: int = 10
    retries: int = 1


class Fetched(NamedTuple):
    """What became of the rows of a list.

    Attributes:
        rows: number of rows.
        pictures: number of those whose picture came.
        reasons: why the others gave none, and how often.
    """

    rows: int
    pictures: int
    reasons: dict[str, int]


def fetch(
    listed: Path,
    out: Path,
    settings: FetchSettings,
    columns: Mapping[str, str] | None = None,
    advance: Advance = nothing,
) -> Fetched:
    """Fetch the pictures of a list, or go on where an earlier call stopped.

    Args:
        listed: CSV, TSV, JSONL or Parquet with addresses and captions.
        out: the folder; the list of what came is ``list.jsonl`` in it.
        settings: how.
        columns: names of columns by what they hold (url, caption, synthetic), where the usual ones do not find them.
        advance: called with the number of rows that are done since the last call.

    Raises:
        UserError: img2dataset or pyarrow is not installed, the folder holds another fetch, or img2dataset stopped.
        DataError: the list is missing, damaged, or has no column of addresses.
    """
    program = _program()
    _claim(out, listed, settings, columns or {})
    if not (out / "urls.parquet").exists():
        _write_urls(listed, out, columns)
    _run(program, out, settings, advance)
    return _account(out)


def _program() -> str:
    """Return where img2dataset is: beside this Python, or on the PATH."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    program = shutil.which("img2dataset", path=path)
    if program is None or find_spec("pyarrow") is None:
        raise UserError(
            "fetching pictures needs img2dataset: pip install 'svq[fetch]', or, apart from svq's environment, "
            "pip install 'svq[parquet]' and 'uv tool install img2dataset'"
        )
    return program


def _claim(out: Path, listed: Path, settings: FetchSettings, columns: Mapping[str, str]) -> None:
    """Mark the folder as that of this list and these settings, or find it so."""
    if not listed.is_file():
        raise DataError(f"no such file: {listed}")
    mark, record = out / "fetch.json", {"list": file_sha256(listed), "size": settings.size, "columns": dict(columns)}
    begun = (out / "urls.parquet").exists()  # before that the list could not be read as was said: try anew
    if mark.exists() and begun:
        before = json.loads(mark.read_text())
        if before != record:
            changed = ", ".join(name for name in record if before.get(name) != record[name])
            raise UserError(f"{out} holds the pictures of another fetch (other {changed}); give another --out")
    elif out.exists() and any(out.iterdir()) and not mark.exists():
        raise UserError(f"{out} is not empty and holds no fetch; give another --out")
    else:
        out.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps(record))


def _write_urls(listed: Path, out: Path, columns: Mapping[str, str] | None) -> None:
    """Write the rows that name an address as Parquet, and what is wrong with the others."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in ROW.items()])
    held: list[dict[str, Any]] = []
    with (
        new_file(out / "urls.parquet") as work,
        ParquetWriter(work, schema) as file,
        open(out / "unusable.jsonl", "w") as unusable,
    ):
        for number, row in enumerate(read_rows(listed, "url", columns), start=1):
            if isinstance(row, str) or not row["url"]:
                problem = row if isinstance(row, str) else "the row names no address"
                unusable.write(json.dumps(dict.fromkeys(ROW, "") | {"row": number, "reason": problem}) + "\n")
                continue
            held.append({"row": number} | {name: row.get(name, "") for name in ("url", "caption", "synthetic")})
            if len(held) == WRITTEN:
                file.write_table(pa.Table.from_pylist(held, schema))
                held = []
        file.write_table(pa.Table.from_pylist(held, schema))


def _run(program: str, out: Path, settings: FetchSettings, advance: Advance) -> None:
    """Let img2dataset fetch all folders that are not complete yet."""
    from pyarrow.parquet import read_metadata

    total = -(-read_metadata(out / "urls.parquet").num_rows // FOLDER)
    done: set[Path] = set()
    if _report(out, done, advance) == total:
        return
    options = {
        "url_list": (out / "urls.parquet").absolute(),
        "input_format": "parquet",
        "save_additional_columns": '["row"]',
        "output_folder": (out / "pictures").absolute(),
        "output_format": "files",
        "number_sample_per_shard": FOLDER,
        "image_size": settings.size,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "skip_reencode": True,  # a picture that is small enough and a JPEG is kept as it came
        "processes_count": settings.processes,
        "thread_count": settings.threads,
        "timeout": settings.timeout,
        "retries": settings.retries,
        "compute_hash": None,
        "extract_exif": False,
    }
    environment = os.environ | {
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS),  # read from the header, before anything is decoded
        "NO_ALBUMENTATIONS_UPDATE": "1",  # else a package below it asks the network for its newest version
    }
    with open(out / "img2dataset.log", "w") as log:
        process = subprocess.Popen(
            [program, *(f"--{name}={value}" for name, value in options.items())],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that all its processes can be ended together
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                _report(out, done, advance)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if (finished := _report(out, done, advance)) < total:
        raise UserError(
            f"img2dataset stopped after {finished} of {total} folders; {out / 'img2dataset.log'} says why; "
            "run the same command again to go on"
        )


def _report(out: Path, done: set[Path], advance: Advance) -> int:
    """Tell of the folders that are complete and were not told of yet; return how many are complete in all."""
    for file in set((out / "pictures").glob("*_stats.json")) - done:
        try:
            advance(json.loads(file.read_text())["count"])
        except (ValueError, KeyError):  # it is being written
            continue
        done.add(file)
    return len(done)


def _account(out: Path) -> Fetched:
    """Write down for each row of the list what became of it."""
    pictures, reasons = 0, Counter[str]()
    with (
        new_file(out / "list.jsonl") as came_at,
        new_file(out / "failed.jsonl") as failed_at,
        open(came_at, "w") as came,
        open(failed_at, "w") as failed,
    ):
        for row in _outcomes(out):
            if "reason" in row:
                reasons[row["reason"]] += 1
                failed.write(json.dumps(row) + "\n")
            else:
                pictures += 1
                came.write(json.dumps(row) + "\n")
    return Fetched(pictures + reasons.total(), pictures, dict(reasons.most_common()))


def _outcomes(out: Path) -> Iterator[dict[str, Any]]:
    """Yield each row with the path of its picture, or with the reason why there is none."""
    from pyarrow.parquet import ParquetFile, read_table

    with open(out / "unusable.jsonl") as unusable:
        yield from map(json.loads, unusable)
    with ParquetFile(out / "urls.parquet") as urls:
        for folder, batch in enumerate(urls.iter_batches(FOLDER)):
            account = read_table(out / "pictures" / f"{folder:05d}.parquet", columns=["row", "key", "error_message"])
            known = {row["row"]: row for row in account.to_pylist()}
            for row in batch.to_pylist():
                told = known.get(row["row"], {"error_message": "img2dataset gave no account of it"})
                file = Path("pictures", f"{folder:05d}", f"{told.get('key')}.jpg")
                if told["error_message"]:
                    yield row | {"reason": told["error_message"]}
                elif not (out / file).is_file():
                    yield row | {"reason": "the picture is not there"}
                else:
                    (out / file).with_suffix(".json").unlink(missing_ok=True)  # a second file for each picture
                    yield {"path": str(file), "caption": row["caption"], "synthetic": row["synthetic"]}
