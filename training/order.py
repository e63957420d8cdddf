"""The order of training examples: a permutation for each epoch, made from the seed and the epoch's number."""

from functools import lru_cache

import torch
from torch import Tensor


def order(size: int, seed: int, seen: int, count: int) -> Tensor:
    """Return which examples (count,) int64 come after `seen` others, of a set of `size`."""
    wanted = torch.arange(seen, seen + count)
    epochs = wanted // size
    return torch.cat(
        [_permutation(size, seed * 1_000_003 + e)[wanted[epochs == e] % size] for e in epochs.unique().tolist()]
    )


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
