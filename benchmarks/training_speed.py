"""A tokenizer's training step as a share of the sgemm rate, and what the loop costs beside it.

    python -m benchmarks.training_speed --preset tiny --batch-size 16 --steps 8

The loop trains as `svq tokenizer train` does; a watch around forward and backward, the optimizers, and the averaging
of weights divides its time. The sgemm rate is measured before and after, in this process. Operations are those of
matrix products, convolutions and attention, counted by torch for one forward and backward pass.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from svq.data import open_images
from svq.provenance import versions
from svq.tokenizer.presets import PRESETS
from svq.tokenizer.task import TokenizerTask
from svq.training import loop, step
from svq.training.device import start_engine
from svq.training.log import RunLog
from svq.training.settings import resolve
from svq.training.step import Trainer

SIDE = 2048  # of the matrices that give the sgemm rate


def sgemm(rounds: int = 5) -> float:
    """Return the operations per second of a product of large matrices."""
    a, b, times = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), []
    for _ in range(rounds):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * SIDE**3 / statistics.median(times)


def operations(trainer: Trainer) -> int:
    """Return the operations of one forward and backward pass."""
    # torch counts the products inside the plain form of attention only.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trainer._backward(trainer.feed.next(), 0, 1.0)
    return counter.get_total_flops()


@contextmanager
def watched(parts: dict[str, tuple[object, str]]) -> Iterator[dict[str, float]]:
    """Replace functions by ones that add up their time; nested ones must not be watched."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*values, **options)
            finally:
                spent[name] += time.perf_counter() - began

        return call

    patches = [
        patch.object(owner, attribute, timed(name, getattr(owner, attribute)))
        for name, (owner, attribute) in parts.items()
    ]
    for one in patches:
        one.start()
    yield spent
    for one in patches:
        one.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="print where the time goes, operation by operation")
    arguments = parser.parse_args()

    options = {"train.batch_size": arguments.batch_size, "train.continuous_share": 0.0, "train.ramp_share": 0.0}
    settings = resolve(PRESETS[arguments.preset](), options=options)
    images = arguments.steps * settings.train.batch_size
    train = settings.train.model_copy(update={"images": images, "evaluate_every": images, "save_every": images})
    engine = start_engine(train)
    if engine.device.type != "cpu":
        raise SystemExit("this compares a CPU's step with its own matrix products; hide the GPU, CUDA_VISIBLE_DEVICES=")
    pictures = open_images("openmoji", settings.model.image_size)
    task = TokenizerTask(settings.model, train, pictures)
    trainer = Trainer(task, train, engine)
    flops = operations(trainer)
    trainer.step(0, images, trainer.feed.next())  # a warm-up
    if arguments.profile:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            trainer.step(0, images, trainer.feed.next())
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))

    before = sgemm()
    parts: dict[str, tuple[object, str]] = {
        "forward_and_backward": (Trainer, "_backward"),
        "optimizers": (step, "update"),
        "average": (step, "average_weights"),
        "evaluation": (loop, "evaluate"),
        "checkpoints": (loop, "save"),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        watched(parts) as spent,
        RunLog("speed", Path(folder), images, engine) as log,
    ):
        began = time.perf_counter()
        loop.train(task, train, Path(folder), log, engine)
        total = time.perf_counter() - began
    rate = (before + sgemm()) / 2
    loop_s = total - spent["evaluation"] - spent["checkpoints"]
    own = loop_s - spent["forward_and_backward"] - spent["optimizers"]
    result = {
        "preset": arguments.preset,
        "batch_size": train.batch_size,
        "steps": arguments.steps,
        "seed": train.seed,
        "data": pictures.fingerprint,
        "threads": torch.get_num_threads(),
        "images_per_s": round(images / loop_s, 2),
        "gflop_per_step": round(flops / 1e9, 1),
        "sgemm_gflops": round(rate / 1e9, 1),
        "share_of_sgemm": {
            "forward_and_backward": round(flops * arguments.steps / spent["forward_and_backward"] / rate, 3),
            "whole_step": round(flops * arguments.steps / loop_s / rate, 3),
        },
        "share_of_time": {
            **{name: round(spent[name] / loop_s, 4) for name in ("forward_and_backward", "optimizers", "average")},
            "all_but_forward_backward_optimizers": round(own / loop_s, 4),
        },
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
