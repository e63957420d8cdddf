"""A run as the command line starts it: train, then return all that describes the result."""

import time
from pathlib import Path
from typing import Any

from svq.provenance import versions
from svq.training.config import TrainConfig
from svq.training.log import RunLog
from svq.training.loop import Task, train


def train_run(title: str, task: Task, config: TrainConfig, out: Path) -> dict[str, Any]:
    """Train a task into the folder `out` and return its result with what it was made from."""
    began = time.perf_counter()
    with RunLog(title, out, config.images) as log:
        metrics = train(task, config, out, log)
    return {
        "out": out,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - began, 1),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "model": task.model_config,
        "train": config.model_dump(mode="json"),
        **task.identity,
        "versions": versions(),
    }
