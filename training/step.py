"""One training step: forward and backward over the processes' shares, the optimizers, the averaged weights.

What is special: a step with an infinite or NaN gradient changes nothing. All processes agree on that, and on
whether to stop, in one small exchange.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from svq.training.config import TrainConfig
from svq.training.device import seed_step
from svq.training.draws import Draws
from svq.training.optimizer import build_optimizers, learning_rate
from svq.training.sharding import gather, local, shard, whole
from svq.training.task import Losses, Task

Value = TypeVar("Value")


class Objective(nn.Module):
    """A task's losses as a module: what is wrapped for several processes and for another precision."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.critic, self.task = task.model, task.critic, task

    def forward(self, batch: tuple[Tensor, ...], progress: float, draws: Draws) -> Losses:
        return self.task.losses(batch, progress, draws)


class Taken(NamedTuple):
    """What a step did: values for the log, its learning rate, and what all processes agree on."""

    values: dict[str, Tensor]
    rate: float
    finite: bool
    stop: bool


class Trainer:
    """A task on this process's device, with its optimizers and the average of its weights."""

    def __init__(self, task: Task, config: TrainConfig, engine: Accelerator) -> None:
        self.task, self.config, self.engine = task, config, engine
        self.rank, self.processes = engine.process_index, engine.num_processes
        task.model.to(engine.device).train()
        if task.critic is not None:
            task.critic.to(engine.device).train()
        if config.compile:
            task.model.compile()
        self.average = copy.deepcopy(task.model)
        self._copy: nn.Module | None = None  # of the average, if that is shared out
        if config.shard:
            self._shard()
        objective = Objective(task)
        self.optimizers = build_optimizers(objective, config.optimizer)
        # What is shared out is not to be wrapped for DDP as well.
        self.objective = engine.prepare_model(objective, evaluation_mode=config.shard)
        self.feed = task.feed(config, self.rank, self.processes, engine.device)

    def _shard(self) -> None:
        """Share the weights and their average out; the first process keeps room for a whole one in host memory."""
        if self.rank == 0:
            self._copy = copy.deepcopy(self.average).cpu()
        for model in (self.task.model, self.average):
            shard(model, self.task.layers(model), self.task.called, self.engine.device)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Lend the averaged model, for the first process to use; all must enter this together."""
        if not self.config.shard:
            yield self.average
            return
        tensors = whole(self.average.state_dict(), wanted=self.rank == 0)
        if self._copy is None:
            yield self.average
            return
        self._copy.load_state_dict(tensors)
        yield self._copy.to(self.engine.device)
        self._copy.cpu()

    def step(
        self, seen: int, total: int, batch: tuple[Tensor, ...], asked: Callable[[], bool] = lambda: False
    ) -> Taken:
        """Learn from this process's share of the batch that follows image `seen` of `total`.

        `asked` says, at the end of the step, whether this process was asked to stop.
        """
        progress = min(seen / total, 1.0)
        seed_step(self.config.seed, seen, self.rank)
        self.task.prepare(progress, self.rank, self.processes)
        critic = [] if self.task.critic is None else [buffer.clone() for buffer in self.task.critic.buffers()]
        values = self._backward(batch, seen, progress)
        norm = self._clip(self.task.model)
        sound = norm.isfinite() & (self._clip(self.task.critic).isfinite() if self.task.critic is not None else True)
        finite, stop = self._agree(sound, asked())
        rate = learning_rate(self.config.optimizer, progress)
        if finite:
            update(self.optimizers, rate)
            average_weights(self.average, self.task.model, self.config, seen + self.config.batch_size)
        else:
            self._undo(critic)
        return Taken({**self._mean(values), "gradient_norm": norm}, rate, finite, stop)

    def from_first(self, value: Value) -> Value:
        """Return in every process what the first one has."""
        if self.processes == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def _mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of each value over all processes."""
        if self.processes == 1:
            return values
        means = torch.stack(list(values.values()))
        torch.distributed.all_reduce(means)
        return dict(zip(values, (means / self.processes).unbind(), strict=True))

    def _backward(self, batch: tuple[Tensor, ...], seen: int, progress: float) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches and return the mean of the loss and its parts."""
        share = len(batch[0])
        most = self.config.micro_batch if isinstance(self.config.micro_batch, int) else share
        values: dict[str, Tensor] = {}
        for first in range(0, share, most):
            last = min(first + most, share)
            rows = slice(self.rank * share + first, self.rank * share + last)
            draws = Draws(self.config.seed, seen, self.config.batch_size, rows, self.engine.device)
            piece = tuple(t[first:last].to(self.engine.device, non_blocking=True) for t in batch)
            with nullcontext() if last == share else self.engine.no_sync(self.objective):
                losses: Losses = self.objective(piece, progress, draws)
                weight = (last - first) / share
                self.engine.backward(losses.total * weight)
            for name, value in {"loss": losses.total, **losses.parts}.items():
                values[name] = values.get(name, 0.0) + value.detach() * weight
        return values

    def _clip(self, model: nn.Module) -> Tensor:
        norm = nn.utils.clip_grad_norm_(model.parameters(), self.config.optimizer.clip, foreach=True)
        return gather(norm)

    def _agree(self, sound: Tensor, stop: bool) -> tuple[bool, bool]:
        """Return whether the gradient is finite in all processes, and whether any of them was asked to stop."""
        flags = torch.stack([~sound, torch.tensor(stop, device=sound.device)]).float()
        if self.processes > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        unsound, stopped = flags.tolist()
        return not unsound, bool(stopped)

    def _undo(self, critic: list[Tensor]) -> None:
        """Forget the gradients, and what the forward pass did to statistics, codebooks and the critic's memory."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        copy_buffers(self.task.model, self.average)
        if self.task.critic is not None:
            for kept, buffer in zip(self.task.critic.buffers(), critic, strict=True):
                kept.copy_(buffer)


def update(optimizers: list[Optimizer], rate: float) -> None:
    """Take a step with each optimizer at a learning rate, and forget the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def average_weights(average: nn.Module, model: nn.Module, config: TrainConfig, seen: int) -> None:
    """Move the averaged weights towards the present ones; the half-life grows with the run (arXiv:2312.02696)."""
    decay = 0.5 ** (config.batch_size / max(config.ema_share * seen, 1e-9))
    get_ema_multi_avg_fn(decay)(local(average.parameters()), local(model.parameters()), seen)
    copy_buffers(average, model)  # a mean of codebooks is no codebook


@torch.no_grad()
def copy_buffers(to: nn.Module, source: nn.Module) -> None:
    """Copy all buffers, statistics and codebooks, from one model to another of the same shape."""
    for kept, buffer in zip(to.buffers(), source.buffers(), strict=True):
        kept.copy_(buffer)
