"""The random numbers of one training step.

What is special: they are drawn for the whole batch, on the CPU, and each process and each micro-batch takes
the rows of its own pictures. A picture meets the same numbers however the batch is divided.
"""

import torch
from torch import Tensor


class Draws:
    """Draws numbers for some rows of a batch.

    Args:
        seed: seed of the run.
        images_seen: how many images the run has seen before this batch.
        batch_size: number of pictures in the whole batch.
        rows: those that the numbers are for.
        device: where the numbers go.
    """

    def __init__(self, seed: int, images_seen: int, batch_size: int, rows: slice, device: torch.device) -> None:
        self.generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + images_seen * 2 + 1) % 2**63)
        self.batch_size, self.rows, self.device = batch_size, rows, device

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers from [0, 1), (B, *shape) for the B rows."""
        return self._own(torch.rand(self.batch_size, *shape, generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        """Return numbers from the standard normal, (B, *shape)."""
        return self._own(torch.randn(self.batch_size, *shape, generator=self.generator))

    def _own(self, numbers: Tensor) -> Tensor:
        return numbers[self.rows].to(self.device, non_blocking=True)
