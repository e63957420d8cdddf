"""What a stage must say for the loop to train it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from svq.training.config import TrainConfig
from svq.training.draws import Draws
from svq.training.order import order


class Losses(NamedTuple):
    """The loss to minimise, a scalar, and its parts by name, for the log."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Feed(Protocol):
    """Where a process's share of each batch comes from, in order."""

    def next(self) -> tuple[Tensor, ...]:
        """Return this process's share of the next batch, on the CPU or on the model's device."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on here, as JSON can hold it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


class Task(ABC):
    """What a stage must say for the loop to train it.

    Attributes:
        model: what is trained.
        critic: a discriminator that is trained against it, or None.
        model_config: the model's configuration, written into each checkpoint.
        identity: what else must stay the same when a run is resumed: fingerprints of the data and the like.
        size: number of training examples.
        best: the metric that decides which checkpoint is the best, and whether it should be large or small; None as
            long as none is to be compared.
        called: methods of the model, beside its forward, that training calls and that use weights themselves.
    """

    model: nn.Module
    critic: nn.Module | None = None
    model_config: dict[str, Any]
    identity: dict[str, Any]
    size: int
    best: tuple[str, Literal["max", "min"]] | None
    called: tuple[str, ...] = ()

    @abstractmethod
    def layers(self, model: nn.Module) -> list[nn.Module]:
        """Return the layers of a model, which hold most of its weights; with `TrainConfig.shard`, only one has
        them all at a time."""

    @abstractmethod
    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Return the training examples at `indices` (B,), on the CPU."""

    def feed(self, config: TrainConfig, rank: int, processes: int, device: torch.device) -> Feed:
        """Return where process `rank` of `processes`, which works on `device`, gets its share of each batch."""
        return _Ordered(self, config, rank, processes)

    @abstractmethod
    def losses(self, batch: tuple[Tensor, ...], progress: float, draws: Draws) -> Losses:
        """Return the losses of a batch on the model's device.

        Args:
            batch: what `feed` gave, or some rows of it.
            progress: the share of the run done.
            draws: the random numbers of these rows.
        """

    def prepare(  # noqa: B027
        self, progress: float, rank: int = 0, processes: int = 1, model: nn.Module | None = None
    ) -> None:
        """Do what is due before a step, such as starting a codebook.

        After the last step, `progress` is 1 and `model` the one with averaged weights, which is kept.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of a model on held-out examples."""

    @abstractmethod
    def illustrate(self, model: nn.Module, path: Path) -> None:
        """Draw what the model can do into a PNG file."""


class _Ordered:
    """Takes a task's examples in the order that the seed gives; its state is a position."""

    def __init__(self, task: Task, config: TrainConfig, rank: int, processes: int) -> None:
        self.task, self.config, self.seen = task, config, 0
        share = config.batch_size // processes
        self.rows = slice(rank * share, (rank + 1) * share)

    def next(self) -> tuple[Tensor, ...]:
        wanted = order(self.task.size, self.config.seed, self.seen, self.config.batch_size)
        self.seen += self.config.batch_size
        return self.task.batch(wanted[self.rows])

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = int(state["seen"])
