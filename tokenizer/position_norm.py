"""Latents of each position normalised by themselves, over all processes of a run.

What is special: late positions vary little; in a codebook that all positions share they would otherwise fall on a
single code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce  # as the public one's warning says

from svq.errors import TrainingError


def mean_of_processes(x: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes of a run; its gradient is that of the mean."""
    if not torch.distributed.is_initialized():
        return x
    everyone = torch.distributed.group.WORLD
    assert everyone is not None
    return all_reduce(x, "sum", everyone) / everyone.size()


class PositionNorm(nn.Module):
    """Each (position, channel) to mean 0 and variance 1: batch norm without affine (arXiv:1502.03167).

    In a run of several processes the statistics are those of all they see at a time.

    Raises:
        TrainingError: a single picture, in training; it has no variance.
    """

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(tokens * dim, affine=False)

    def forward(self, z: Tensor, first: int = 0) -> Tensor:
        """Normalise latents (B, g, d), those from position `first` on."""
        x = z.flatten(1).float()  # (B, g d); statistics in bf16 would be too coarse
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        here = slice(first * z.shape[2], (first + z.shape[1]) * z.shape[2])
        mean, variance = self.norm.running_mean[here], self.norm.running_var[here]
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if self.training and len(x) * processes == 1:
            raise TrainingError(
                "latents are normalised over the pictures that are seen at a time, and this was a single one; give "
                "another train.batch_size or train.micro_batch, such that 2 or more are left for every part of a batch"
            )
        if self.training and processes > 1:
            return self._over_processes(x, mean, variance, len(x) * processes).view_as(z)  # (B, g, d)
        momentum, eps = self.norm.momentum or 0.0, self.norm.eps
        return F.batch_norm(x, mean, variance, training=self.training, momentum=momentum, eps=eps).view_as(z)

    def _over_processes(self, x: Tensor, running_mean: Tensor, running_variance: Tensor, count: int) -> Tensor:
        # torch's SyncBatchNorm is for GPUs only.
        mean = mean_of_processes(x.mean(0))  # (g d,)
        # Around the mean, not the mean of squares less the square of the mean: fp32 would cancel to noise.
        variance = mean_of_processes((x - mean).square().mean(0))
        with torch.no_grad():
            running_mean.lerp_(mean, self.norm.momentum or 0.0)
            running_variance.lerp_(variance * count / (count - 1), self.norm.momentum or 0.0)
        return (x - mean) * torch.rsqrt(variance + self.norm.eps)
