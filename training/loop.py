"""The training loop, the same for both stages, on one process or many. It counts images, not steps."""

import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from svq.errors import RunStopped, TrainingError
from svq.training.config import TrainConfig
from svq.training.curve import draw_curve
from svq.training.log import RunLog, read_log
from svq.training.signals import StopRequest
from svq.training.state import Position, resume, save
from svq.training.step import Trainer, copy_buffers
from svq.training.task import Task


def train(
    task: Task,
    config: TrainConfig,
    out: Path,
    log: RunLog,
    engine: Accelerator,
    accept_changes: bool = False,
) -> dict[str, float]:
    """Train a task, or go on where the run in `out` stopped, and return the last metrics.

    Args:
        task: what to train.
        config: for how long and how.
        out: the folder of the run: checkpoints, log, curve and pictures.
        log: where progress is shown and recorded.
        engine: the processes and the hardware, from `start_engine`.
        accept_changes: go on although the settings are not those of before.

    Raises:
        CheckpointError: the folder holds a run with another configuration or other data.
        TrainingError: the gradient was infinite or NaN too often in a row, or a checkpoint cannot be written.
        RunStopped: a signal asked for it; all is saved.
    """
    trainer = Trainer(task, config, engine)
    at = resume(trainer, out, accept_changes, log.say)
    log.rewind(at.seen)
    total = -(-config.images // config.batch_size) * config.batch_size
    if 0 < at.seen < total:
        log.say(f"{log.title}: going on from image {at.seen:,} of {total:,}")
        at = _make_up_for_evaluation(trainer, at, log, out)
    metrics: dict[str, float] = {}

    with StopRequest() as request:
        while at.seen < total:
            # Step.
            began = time.perf_counter()
            batch = trainer.feed.next()
            waited = time.perf_counter() - began
            taken = trainer.step(at.seen, total, batch, lambda: request.asked)
            before, seen = at.seen, at.seen + config.batch_size
            at = _count(at, seen, taken.finite, config)
            last = seen >= total
            if last:
                task.prepare(1.0, trainer.rank, trainer.processes, trainer.average)
                copy_buffers(task.model, trainer.average)
            # Log.
            log.step(seen, taken.values, taken.rate, waited, at.skipped)
            if taken.stop and not last:
                save(trainer, out, at)  # before an evaluation, which may take longer than we are given
            # Evaluate.
            better = False
            if last or due(before, seen, config.evaluate_every):
                metrics = evaluate(trainer, log, seen, out)
                at, better = _compare(at, metrics, task)
            # Save.
            if last or better or (due(before, seen, config.save_every) and not taken.stop):
                save(trainer, out, at)
            # Stop?
            if taken.stop and not last:
                raise RunStopped(f"stopped and saved at image {seen} of {total}; the same command goes on")
    return metrics or trainer.from_first(log.last_metrics()) or evaluate(trainer, log, total, out)


def _make_up_for_evaluation(trainer: Trainer, at: Position, log: RunLog, out: Path) -> Position:
    """Evaluate a run that was ended in an evaluation, before which it had saved because it was asked to stop.

    One that was measured already, but ended before what was best could be noted, is compared anew.
    """
    if not due(at.seen - trainer.config.batch_size, at.seen, trainer.config.evaluate_every):
        return at
    records = read_log(out) if trainer.rank == 0 else []
    known = next((r["evaluation"] for r in records if r["images"] == at.seen and "evaluation" in r), None)
    metrics = trainer.from_first(known) or evaluate(trainer, log, at.seen, out)
    at, better = _compare(at, metrics, trainer.task)
    if better:
        save(trainer, out, at)
    return at


def due(before: int, seen: int, every: int) -> bool:
    """Say whether a multiple of `every` was passed."""
    return seen // every > before // every


def _count(at: Position, seen: int, finite: bool, config: TrainConfig) -> Position:
    """Return the position after a step.

    Raises:
        TrainingError: too many steps in a row were skipped.
    """
    if finite:
        return at._replace(seen=seen, in_a_row=0)
    if at.in_a_row + 1 >= config.skip_at_most:
        raise TrainingError(
            f"the gradient was infinite or NaN in {config.skip_at_most} steps in a row before image {seen}; nothing "
            "of that was saved, lower train.optimizer.learning_rate and give another --out"
        )
    return at._replace(seen=seen, skipped=at.skipped + 1, in_a_row=at.in_a_row + 1)


def _compare(at: Position, metrics: dict[str, float], task: Task) -> tuple[Position, bool]:
    """Return the position with the best value of the task's metric so far, and whether it is a new one."""
    if task.best is None:
        return at, False
    name, wanted = task.best
    value = metrics.get(name)
    if value is None or not math.isfinite(value):
        return at, False
    if at.best is not None and (value <= at.best if wanted == "max" else value >= at.best):
        return at, False
    return at._replace(best=value, best_at=at.seen), True


def evaluate(trainer: Trainer, log: RunLog, seen: int, out: Path) -> dict[str, float]:
    """Measure the averaged model, draw its picture and write both down; the first process does, the others wait."""
    began = time.perf_counter()
    metrics: dict[str, float] = {}
    with trainer.averaged() as model:
        if trainer.rank == 0:
            model.eval()
            with torch.inference_mode():
                metrics = trainer.task.evaluate(model)
                trainer.task.illustrate(model, out / "pictures" / f"{seen:09d}.png")
            log.evaluation(seen, metrics, time.perf_counter() - began)
            draw_curve(out, log.title)
    return trainer.from_first(metrics)
