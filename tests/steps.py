"""The random numbers of one training step, for tests that take one by hand."""

import torch

from svq.training.draws import Draws


def draws(count: int, seen: int = 0) -> Draws:
    """Return those of a batch of `count` pictures, on one process."""
    return Draws(0, seen, count, slice(None), torch.device("cpu"))
