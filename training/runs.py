"""A run as the command line starts it: train, then return all that describes the result."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from svq.errors import CheckpointError, UserError
from svq.locking import lock
from svq.provenance import versions
from svq.training.config import TrainConfig
from svq.training.device import precision_of, products_in, start_engine
from svq.training.log import RunLog, read_log
from svq.training.loop import train
from svq.training.micro import settle_micro_batch
from svq.training.task import Task


def train_run(
    title: str, build: Callable[[], Task], config: TrainConfig, out: Path, accept_changes: bool = False
) -> dict[str, Any]:
    """Train a task into the folder `out` and return its result with what it was made from.

    Args:
        title: what is trained, for the log.
        build: makes the task; called when the processes have found each other.
        config: how to train it.
        out: the folder of the run.
        accept_changes: go on although the settings are not those of before.

    Raises:
        CheckpointError: the folder holds a model or a checkpoint, another run is at work in it, or what `train`
            refuses.
        TrainingError: there is a ``log.jsonl`` that is not a run's, or what `train` raises.
    """
    began = time.perf_counter()
    _check_folder(out)
    engine = start_engine(config, out)
    task = _build_in_turn(build, engine)
    with _alone(out, engine), products_in(config.tf32):
        config = settle_micro_batch(task, config, engine, out)
        if config.trackers:
            with redirect_stdout(sys.stderr):  # trackio prints; stdout is for the result
                engine.init_trackers(title, config.model_dump(mode="json", exclude={"optimizer", "trackers"}))
        with RunLog(title, out, config.images, engine) as log:
            metrics = train(task, config, out, log, engine, accept_changes)
    with redirect_stdout(sys.stderr):
        engine.end_training()
    return {
        "out": out,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - began, 1),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "model": task.model_config,
        "train": config.model_dump(mode="json"),
        "processes": engine.num_processes,
        "precision": precision_of(engine),
        **task.identity,
        "versions": versions(),
    }


def _build_in_turn(build: Callable[[], Task], engine: Accelerator) -> Task:
    """Build the task: the first process of a machine prepares the data, the others find it prepared.

    Raises:
        UserError: what it refuses in any of the processes, and then in all: one alone would leave the others waiting.
    """
    task, refusal = None, None
    with engine.local_main_process_first():
        try:
            task = build()
        except UserError as error:
            refusal = error
    refusals = gather_object([refusal]) if engine.num_processes > 1 else [refusal]
    for raised in refusals:
        if raised is not None:
            raise raised
    assert task is not None
    return task


@contextmanager
def _alone(out: Path, engine: Accelerator) -> Iterator[None]:
    """Hold the folder of a run against other runs; the first process does so for all.

    Raises:
        CheckpointError: another run holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    taken: list[str | None] = [None]
    with open(out / ".lock", "a") as file:
        if engine.is_main_process:
            try:
                lock(file, CheckpointError(f"another run is at work in {out}; wait for it, or give another --out"))
            except CheckpointError as error:
                taken = [str(error)]
        (refusal,) = broadcast_object_list(taken)
        if refusal is not None:
            raise CheckpointError(refusal)
        yield


def _check_folder(out: Path) -> None:
    """Refuse a folder in which a run would write over what is not a run's."""
    if (out / "manifest.json").exists():
        raise CheckpointError(f"{out} holds a model or a checkpoint, not a run; give another --out")
    if (out / "log.jsonl").exists():
        read_log(out)
