"""A dry run: everything is built, a step is taken and timed, nothing is written."""

import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from svq.training.config import TrainConfig
from svq.training.device import precision_of, products_in, start_engine
from svq.training.micro import settle_micro_batch
from svq.training.step import Trainer
from svq.training.task import Task


def dry_run(build: Callable[[], Task], config: TrainConfig) -> dict[str, Any]:
    """Return what a run would need: parameters, memory in bytes, images per second, and its time in seconds.

    Two steps are taken as at the end of the run, where codes are in use; the first one is a warm-up. Memory is
    the peak of this process, on a GPU that of its tensors. The time is without evaluation and checkpoints, and with
    pictures at hand: a loader that is slower than the model is not seen.
    """
    engine = start_engine(config)
    with engine.local_main_process_first():
        task = build()
    with products_in(config.tf32):
        config = settle_micro_batch(task, config, engine, out=None)
    on_gpu = engine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()  # trials of a micro-batch may have filled it
    trainer = Trainer(task, config, engine)
    seconds = 0.0
    with products_in(config.tf32):
        for _ in range(2):
            began = time.perf_counter()
            trainer.step(config.images - config.batch_size, config.images, trainer.feed.next())  # waits for a GPU
            seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = config.batch_size / seconds
    return {
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "memory": memory,
        "images_per_s": rate,
        "seconds": config.images / rate,
        "device": str(engine.device),
        "precision": precision_of(engine),
        "processes": engine.num_processes,
        "batch_size": config.batch_size,
        "micro_batch": config.micro_batch or config.batch_size // engine.num_processes,
    }
