"""The hardware, chosen once: device, precision, processes; and the seeds of a run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from svq.errors import ConfigError
from svq.training.config import TrainConfig

Model = TypeVar("Model", bound=nn.Module)
PATIENCE = timedelta(hours=6)  # of processes for the first one, which prepares data, evaluates and saves


def choose_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(wanted: str) -> str:
    """Return ``fp32`` or ``bf16``: what `wanted` says, or, for ``auto``, what this hardware does well.

    A CPU can do bf16, but one without the units for it does so hundreds of times slower than fp32; a GPU before
    Ampere, such as a T4, emulates it.
    """
    if wanted != "auto":
        return wanted
    units = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if units else "fp32"


def precision_of(engine: Accelerator) -> str:
    """Return ``fp32`` or ``bf16``; accelerate calls the first one "no"."""
    return engine.mixed_precision.replace("no", "fp32")


def start_engine(config: TrainConfig, out: Path | None = None) -> Accelerator:
    """Join the other processes of the run, if there are any, and set up precision and trackers.

    Must come before a model is built: a quantizer decides then whether to keep codebooks equal over processes.

    Args:
        config: the run.
        out: its folder, for trackers that write files; None starts no tracker.

    Raises:
        ConfigError: a tracker is not installed, there are fewer GPUs than processes, there are no processes to
            share the weights, or the batch cannot be shared equally among them.
    """
    for name in config.trackers:
        if find_spec(name) is None:
            raise ConfigError(f"train.trackers: {name} is not installed; pip install {name}")
    gpus, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < gpus < processes:
        raise ConfigError(
            f"{processes} processes on a machine with {gpus} GPU(s); give --nproc {gpus}, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= to share the CPU"
        )
    precision = choose_precision(config.precision)
    AcceleratorState._reset_state()  # a run before this one, in this process, may have had another precision
    engine = Accelerator(
        mixed_precision="bf16" if precision == "bf16" else "no",
        cpu=not torch.cuda.is_available(),
        log_with=list(config.trackers) if config.trackers and out is not None else None,
        project_dir=out,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                gradient_as_bucket_view=True,  # else all gradients are held twice
                broadcast_buffers=False,  # ours are equal by construction: statistics and codebooks are reduced
                find_unused_parameters=True,  # a quantizer's and a discriminator's, before their time has come
            ),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    if config.shard and engine.num_processes == 1:
        raise ConfigError("train.shard shares the weights out among processes; start several, as with --nproc 2")
    if config.batch_size % engine.num_processes:
        raise ConfigError(
            f"train.batch_size {config.batch_size} cannot be shared by {engine.num_processes} processes; "
            f"give a multiple of {engine.num_processes}"
        )
    return engine


@contextmanager
def products_in(tf32: bool) -> Iterator[None]:
    """Let a GPU multiply fp32 matrices in TF32, or not, and leave it as it was; a CPU is not asked."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def build_seeded(seed: int, build: Callable[[], Model]) -> Model:
    """Build a model whose initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    return build()


def seed_step(seed: int, images_seen: int, rank: int = 0) -> None:
    """Seed torch's generators for one training step.

    A step's randomness depends on the run's seed, on how many images it has seen and on the process, on nothing
    else: a resumed run draws the same numbers without any generator's state having been saved.
    """
    mixed = seed * 0x9E3779B97F4A7C15 + images_seen * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    torch.manual_seed(mixed % 2**63)
