"""Synthetic captions for a set of pictures, written as a list that `svq data pack` reads.

What is special: the file grows by whole lines in the order of the pictures, whatever the number of processes,
so that a stopped run goes on behind its last whole line. Each line repeats the picture's path and names who
captioned it; a file begun with another model or on other pictures is recognised, refused, and left as it is.
"""

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from svq.data.captioner import Captioner, CaptionSettings
from svq.data.encoding import decode
from svq.data.entries import Entry, load
from svq.data.imageset import Advance, nothing
from svq.data.parallel import WorkerError, in_order
from svq.errors import DataError, UserError
from svq.locking import lock

Row = dict[str, Any]  # a line of the list


class Captioned(NamedTuple):
    """How many pictures a list holds, and how many of them could not be read and have no synthetic caption."""

    pictures: int
    unreadable: int


class Task(NamedTuple):
    """A picture, and what its line will say beside the synthetic caption."""

    entry: Entry
    row: Row


def write_captions(
    entries: Iterable[Entry],
    out: Path,
    settings: CaptionSettings,
    batch_size: int = 16,
    workers: int = 1,
    advance: Advance = nothing,
) -> Captioned:
    """Caption pictures, or go on where an earlier run stopped, and return how many the list now holds.

    Args:
        entries: the pictures in their order, as `svq.data.sources.list_pictures` lists them.
        out: the list, JSON lines; it appears when it is complete and is ``NAME.partial`` until then.
        settings: which model, and how it writes.
        batch_size: pictures that a process captions at a time.
        workers: processes; several CUDA devices are taken in turn.
        advance: called with the number of pictures done since the last call.

    Raises:
        UserError: the model cannot be used, the list was begun with other pictures or settings, or another
            process is writing it.
    """
    captioner = f"{settings.model}, {settings.max_tokens} tokens, {settings.beams} beams"
    begun = out if out.exists() else out.with_name(out.name + ".partial")
    begun.parent.mkdir(parents=True, exist_ok=True)
    wanted = (Task(entry, _row(entry, captioner)) for entry in entries)
    with open(begun, "a+b") as file:
        taken = f"another process is writing {begun}; wait for it, or give another --out"
        lock(file, UserError(taken))
        try:
            done = _skip_done(file, wanted, begun, finished=begun == out)
            advance(done.pictures)
            pictures, unreadable = done
            for batch in _captioned(wanted, settings, batch_size, workers):
                file.write("".join(json.dumps(row) + "\n" for row in batch).encode())
                file.flush()
                pictures += len(batch)
                unreadable += sum("problem" in row for row in batch)
                advance(len(batch))
            begun.rename(out)
        finally:
            if begun != out and begun.exists() and begun.stat().st_size == 0:  # nothing was begun
                begun.unlink()
    return Captioned(pictures, unreadable)


def _row(entry: Entry, captioner: str) -> Row:
    kind, *where = entry.place
    if kind not in ("file", "nowhere"):  # the latter is a row of a list that cannot be read
        raise UserError(
            "captions are listed by the paths of pictures, and these are no files of their own; "
            "give a folder or a list, and pack it with its captions"
        )
    known = {
        "key": entry.key,
        "path": where[0] if kind == "file" else None,
        "class": entry.label,
        "split": entry.split,
        "caption": entry.caption,
        "captioner": captioner,
    }
    return {name: value for name, value in known.items() if value is not None}


def _skip_done(file: BinaryIO, wanted: Iterator[Task], path: Path, finished: bool) -> Captioned:
    """Take from `wanted` what the file holds already, and cut off a last line that a stopped run left half written."""
    pictures = unreadable = whole = 0
    file.seek(0)
    for line in file:
        if not line.endswith(b"\n"):
            if finished:  # the line may be another's
                raise UserError(
                    f"{path}, line {pictures + 1}, is not ended; end or delete it to go on, or give another --out"
                )
            break
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        expected = next(wanted, None)
        if not isinstance(row, dict) or expected is None or {**row, **expected.row} != row:
            raise UserError(
                f"{path}, line {pictures + 1}, was not written for these pictures by this model with these settings; "
                "give another --out, or the same source and options to go on"
            )
        pictures, unreadable, whole = pictures + 1, unreadable + ("problem" in row), whole + len(line)
    file.truncate(whole)
    return Captioned(pictures, unreadable)


def _captioned(wanted: Iterator[Task], settings: CaptionSettings, batch_size: int, workers: int) -> Iterator[list[Row]]:
    """Yield the rows with their captions, batch by batch, in order."""
    first = next(wanted, None)
    if first is None:  # nothing is left, no model is needed
        return
    left = chain([first], wanted)
    tasks = iter(lambda: list(islice(left, batch_size)), [])
    if workers == 1:
        captioner = Captioner(settings, _device(0))
        yield from (_caption(captioner, task) for task in tasks)
        return
    numbers = multiprocessing.get_context("spawn").Queue()
    for number in range(workers):
        numbers.put(number)
    try:
        yield from in_order(_work, tasks, workers, _start_worker, (settings, workers, numbers))
    except WorkerError as error:
        raise UserError(
            "a captioning process ended (its last words are above, if it had any): too little memory, or a model "
            "that cannot be loaded; run again with --workers 1, or a smaller --batch-size, to go on"
        ) from error


def _device(number: int) -> torch.device:
    count = torch.cuda.device_count()
    return torch.device("cuda", number % count) if count else torch.device("cpu")


_worker: Captioner | None = None  # of this process, where it is one of several


def _start_worker(settings: CaptionSettings, workers: int, numbers: "Queue[int]") -> None:
    global _worker
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    _worker = Captioner(settings, _device(numbers.get()))


def _work(tasks: list[Task]) -> list[Row]:
    assert _worker is not None
    return _caption(_worker, tasks)


def _caption(captioner: Captioner, tasks: list[Task]) -> list[Row]:
    """Return the lines of pictures, each with a synthetic caption or with the problem that the picture has."""
    images, problems = [], {}
    for i, task in enumerate(tasks):
        try:
            images.append(decode(load(task.entry.place)))
        except (DataError, OSError) as error:
            problems[i] = {"synthetic": "", "problem": str(error)}
    texts = iter(captioner(images) if images else [])
    return [task.row | (problems.get(i) or {"synthetic": next(texts)}) for i, task in enumerate(tasks)]
