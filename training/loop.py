"""The training loop, the same for both stages. It counts images, not steps."""

import copy
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from svq.errors import CheckpointError, TrainingError
from svq.provenance import versions
from svq.training import checkpoint
from svq.training.config import TrainConfig
from svq.training.curve import draw_curve
from svq.training.device import choose_device, seed_step
from svq.training.log import RunLog
from svq.training.optimizer import build_optimizers, learning_rate, load_optimizer_state, optimizer_state

KEEP = 2  # checkpoints


class Losses(NamedTuple):
    """The loss to minimise, a scalar, and its parts by name, for the log."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Task(ABC):
    """What a stage must say for the loop to train it.

    Attributes:
        model: what is trained.
        model_config: the model's configuration, written into each checkpoint.
        identity: what else must stay the same when a run is resumed: fingerprints of the data and the like.
        size: number of training examples.
    """

    model: nn.Module
    model_config: dict[str, Any]
    identity: dict[str, Any]
    size: int

    @abstractmethod
    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Return the training examples at `indices` (B,), on the CPU."""

    @abstractmethod
    def losses(self, batch: tuple[Tensor, ...], progress: float) -> Losses:
        """Return the losses of a batch on the model's device; `progress` is the share of the run done."""

    def prepare(self, progress: float) -> None:  # noqa: B027
        """Do what is due before a step, such as starting a codebook; `progress` is 1 after the last step."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of a model on held-out examples."""

    @abstractmethod
    def illustrate(self, model: nn.Module, path: Path) -> None:
        """Draw what the model can do into a PNG file."""


class Run(NamedTuple):
    """What is written to and read from a checkpoint."""

    task: Task
    average: nn.Module
    optimizers: list[Optimizer]
    config: TrainConfig

    def identity(self) -> dict[str, Any]:
        """Return all that must be the same when the run is resumed."""
        return {
            "model": self.task.model_config,
            "train": self.config.model_dump(mode="json"),
            **self.task.identity,
        }


def train(task: Task, config: TrainConfig, out: Path, log: RunLog) -> dict[str, float]:
    """Train a task, or go on where the run in `out` stopped, and return the last metrics.

    Args:
        task: what to train.
        config: for how long and how.
        out: the folder of the run: checkpoints, log, curve and pictures.
        log: where progress is shown and recorded.

    Raises:
        CheckpointError: the folder holds a run with another configuration or other data.
        TrainingError: the gradient became infinite or NaN.
    """
    device = choose_device()
    task.model.to(device).train()
    steps = -(-config.images // config.batch_size)
    optimizers = build_optimizers(task.model, config.optimizer)
    average = copy.deepcopy(task.model)
    run = Run(task, average, optimizers, config)
    start = resume(run, out)
    log.rewind(start * config.batch_size)
    metrics: dict[str, float] = {}
    sound = torch.ones((), dtype=torch.bool, device=device)

    for step in range(start, steps):
        seen = step * config.batch_size
        # Step.
        began = time.perf_counter()
        batch = tuple(t.to(device) for t in task.batch(order(task.size, config, seen)))
        waited = time.perf_counter() - began
        seed_step(config.seed, seen)
        task.prepare(step / steps)
        losses = task.losses(batch, step / steps)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(task.model.parameters(), config.optimizer.clip)
        sound = sound & norm.isfinite()
        rate = learning_rate(config.optimizer, step / steps)
        update(optimizers, rate)
        seen += config.batch_size
        last = step + 1 == steps
        if last:
            task.prepare(1.0)
        average_weights(average, task.model, config, seen)
        # Log.
        log.step(seen, {"loss": losses.total, **losses.parts, "gradient_norm": norm}, rate, waited)
        # Evaluate.
        evaluated = last or due(seen, config.evaluate_every, config.batch_size)
        saved = last or due(seen, config.save_every, config.batch_size)
        if (evaluated or saved) and not sound:
            raise TrainingError(
                f"the gradient became infinite or NaN before image {seen}; nothing of that was saved, lower "
                "train.optimizer.learning_rate and give another --out"
            )
        if evaluated:
            metrics = evaluate(run, log, seen, out)
        # Save.
        if saved:
            save(run, out, step + 1)
    return metrics or log.last_metrics() or evaluate(run, log, steps * config.batch_size, out)


def update(optimizers: list[Optimizer], rate: float) -> None:
    """Take a step with each optimizer at a learning rate, and forget the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def due(seen: int, every: int, batch_size: int) -> bool:
    """Say whether a multiple of `every` lies within the last batch."""
    return seen // every > (seen - batch_size) // every


def order(size: int, config: TrainConfig, seen: int) -> Tensor:
    """Return which examples come next (B,): each epoch is a permutation made from the seed and its number."""
    wanted = torch.arange(seen, seen + config.batch_size)
    epochs = wanted // size
    parts = []
    for epoch in epochs.unique().tolist():
        parts.append(_permutation(size, config.seed * 1_000_003 + epoch)[wanted[epochs == epoch] % size])
    return torch.cat(parts)


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def average_weights(average: nn.Module, model: nn.Module, config: TrainConfig, seen: int) -> None:
    """Move the averaged weights towards the present ones; the half-life grows with the run (arXiv:2312.02696).

    Buffers are copied: a mean of codebooks is no codebook.
    """
    decay = 0.5 ** (config.batch_size / max(config.ema_share * seen, 1e-9))
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(model.parameters()), seen)
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)


def evaluate(run: Run, log: RunLog, seen: int, out: Path) -> dict[str, float]:
    """Measure the averaged model, draw its picture and write both down."""
    model = run.average.eval()
    began = time.perf_counter()
    with torch.inference_mode():
        metrics = run.task.evaluate(model)
        run.task.illustrate(model, out / "pictures" / f"{seen:09d}.png")
    log.evaluation(seen, metrics, time.perf_counter() - began)
    draw_curve(out, log.title)
    return metrics


def save(run: Run, out: Path, step: int) -> None:
    """Publish a checkpoint and remove the oldest beyond those to keep."""

    def write(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(run.task.model_config, indent=1))
        checkpoint.write_tensors(folder / "model.safetensors", run.task.model.state_dict())
        checkpoint.write_tensors(folder / "ema.safetensors", run.average.state_dict())
        state = folder / "state"
        state.mkdir()
        for i, optimizer in enumerate(run.optimizers):
            checkpoint.write_tensors(state / f"optimizer{i}.safetensors", optimizer_state(optimizer))
        (state / "run.json").write_text(
            json.dumps({"step": step, "identity": run.identity(), "versions": versions()}, indent=1)
        )

    folder = out / checkpoint.CHECKPOINTS
    checkpoint.publish(folder / f"{step * run.config.batch_size:012d}", write)
    for old in sorted(folder.glob("[0-9]*"))[:-KEEP]:
        shutil.rmtree(old)


def resume(run: Run, out: Path) -> int:
    """Load the newest checkpoint of a run, if there is one, and return the number of steps done."""
    folder = checkpoint.newest(out)
    if folder is None:
        return 0
    checkpoint.verify(folder)
    state = checkpoint.read_json(folder / "state" / "run.json")
    changes = differences(state["identity"], json.loads(json.dumps(run.identity())))
    if changes:
        raise CheckpointError(
            f"{out} holds a run with other settings ({'; '.join(changes)}); "
            "give another --out, or the same settings to go on"
        )
    run.task.model.load_state_dict(checkpoint.read_tensors(folder / "model.safetensors"))
    run.average.load_state_dict(checkpoint.read_tensors(folder / "ema.safetensors"))
    for i, optimizer in enumerate(run.optimizers):
        load_optimizer_state(optimizer, checkpoint.read_tensors(folder / "state" / f"optimizer{i}.safetensors"))
    return int(state["step"])


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return ``key: old -> new`` for all leaves in which two nested mappings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path}: {old} -> {new}"]
