"""What a run says: a bar on a terminal, plain lines elsewhere, and a JSONL file always."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from svq.errors import TrainingError
from svq.files import write_text

console = Console(stderr=True)
LINE_EVERY_S = 20.0  # between two plain lines where there is no terminal
BEGINNING = '{"images": '  # of each line of a log
RECORD_EVERY = 10  # steps between two records of the training loss


class RunLog:
    """Shows and records a run; a context manager.

    Args:
        title: what is being trained.
        out: folder of the run; ``log.jsonl`` in it is appended to.
        total: number of images of the whole run.
        engine: the processes of the run: the first one writes, the others are silent; its trackers are told, too.
    """

    def __init__(self, title: str, out: Path, total: int, engine: Accelerator) -> None:
        self.out, self.total, self.title, self.engine = out, total, title, engine
        self.silent = not engine.is_main_process
        if self.silent:
            console.quiet = True
        else:
            out.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._bar = _progress()
        self._began = self._line = time.perf_counter()
        self._seen: int | None = None
        self._steps = 0
        self._idle = self._waited = 0.0

    def __enter__(self) -> "RunLog":
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=self.total, status="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._file.close()

    def rewind(self, seen: int) -> None:
        """Forget what an earlier start wrote after image `seen`, from where the run now goes on."""
        if self.silent:
            return
        kept = [record for record in read_log(self.out) if record["images"] <= seen]
        self._file.close()
        write_text(self.out / "log.jsonl", "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self._open()

    def _open(self) -> TextIO:
        return open(os.devnull if self.silent else self.out / "log.jsonl", "a", buffering=1)

    def step(self, seen: int, values: Mapping[str, Tensor], rate: float, waited: float, skipped: int) -> None:
        """Take note of a training step; values are read, and a GPU waited for, only now and then."""
        if self.silent:
            return
        if self._seen is None:
            self._seen, self._began = seen, time.perf_counter()
        else:  # the first step is a warm-up
            self._waited += waited
        self._steps += 1
        if self._steps % RECORD_EVERY and seen < self.total:
            return
        now = time.perf_counter()
        busy = max(now - self._began - self._idle, 1e-9)
        speed = (seen - self._seen) / busy
        numbers = {name: value.item() for name, value in values.items()}
        record = {
            **numbers, "learning_rate": rate, "images_per_s": round(speed, 2), "skipped_steps": skipped,
            "waiting_share": round(self._waited / busy, 4), "seconds": round(now - self._began, 2),
        }  # fmt: skip
        self._write({"images": seen, **record})
        self.engine.log(record, step=seen)
        status = f"loss {numbers['loss']:.4f}  {speed:.0f} images/s  {self._waited / busy:.0%} waiting for data"
        if skipped:
            status += f"  {skipped} steps skipped"
        self._bar.update(self._task, completed=min(seen, self.total), status=status)
        if not console.is_terminal and (now - self._line > LINE_EVERY_S or seen >= self.total):
            self._line = now
            left = max(self.total - seen, 0) / max(speed, 1e-9)
            print(f"{self.title}: {seen}/{self.total} images  {status}  {left:.0f} s left", file=sys.stderr)

    def evaluation(self, seen: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Take note of metrics on held-out pictures; the time they took does not count in the rate."""
        self._idle += seconds
        self._write({"images": seen, "evaluation": dict(metrics)})
        self.engine.log(dict(metrics), step=seen)
        text = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        self.say(f"{self.title}: {seen} images: {text}")

    def say(self, text: str) -> None:
        """Show one line."""
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def last_metrics(self) -> dict[str, float]:
        """Return the metrics of the last evaluation in the log, which may be an earlier start's."""
        evaluations = [] if self.silent else [r for r in read_log(self.out) if "evaluation" in r]
        return dict(evaluations[-1]["evaluation"]) if evaluations else {}

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")


@contextmanager
def bar(title: str, total: int | None, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show the progress of work on stderr; yields what takes the number of images, or other units, just done.

    Off a terminal it is a plain line now and then, and one at the end, unless the total was unknown and nothing was to
    be done.
    """
    began, done = time.perf_counter(), 0
    line = began
    with _progress() as progress:
        task = progress.add_task(title, total=total, status="")

        def advance(count: int) -> None:
            nonlocal done, line
            done, now = done + count, time.perf_counter()
            speed = done / max(now - began, 1e-9)
            progress.update(task, completed=done, status=f"{speed:.0f} {unit}/s")
            if not console.is_terminal and now - line > LINE_EVERY_S:
                line = now
                known = f"/{total}" if total else ""
                left = f"  {max(total - done, 0) / max(speed, 1e-9):.0f} s left" if total else ""
                print(f"{title}: {done}{known} {unit}  {speed:.1f} {unit}/s{left}", file=sys.stderr, flush=True)

        yield advance
    if not console.is_terminal and (done or total is not None):
        seconds = time.perf_counter() - began
        print(f"{title}: {done}/{total or done} {unit}  {done / max(seconds, 1e-9):.0f} {unit}/s", file=sys.stderr)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return the records of a run's ``log.jsonl``; a last line cut off by a crash is left out.

    Raises:
        TrainingError: it is not the log of a run.
    """
    path, records = out / "log.jsonl", []
    lines = path.read_text(errors="replace").rstrip("\0").splitlines()  # NULs: of a power failure
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and BEGINNING.startswith(line[: len(BEGINNING)]):
                break
            raise TrainingError(f"{path}, line {number}, is not of a run's log; give another --out") from error
        if not isinstance(record, dict) or not isinstance(record.get("images"), int):
            raise TrainingError(f"{path}, line {number}, is not of a run's log; give another --out")
        records.append(record)
    return records
