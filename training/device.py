"""The device, chosen once, and the seeds of a run."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def choose_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_seeded(seed: int, build: Callable[[], Model]) -> Model:
    """Build a model whose initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    return build()


def seed_step(seed: int, images_seen: int) -> None:
    """Seed torch's generators for one training step.

    A step's randomness depends on the run's seed and on how many images it has seen, on nothing else: a
    resumed run draws the same numbers without any generator's state having been saved.
    """
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + images_seen * 0xBF58476D1CE4E5B9) % 2**63)
