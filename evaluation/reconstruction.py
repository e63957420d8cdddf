"""How well pictures are painted again from their codes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Decode = Callable[[Tensor], Tensor]  # codes (B, k) int64 -> pictures (B, 3, S, S) in [-1, 1]
BATCH = 128


class Quality(NamedTuple):
    """Mean PSNR in dB, its standard deviation over the pictures, and the mean absolute error in [0, 2]."""

    psnr: float
    psnr_spread: float
    l1: float


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, (B,), for values in [-1, 1]."""
    error = (images - references).square().flatten(1).mean(1)  # (B,)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def decode_all(decode: Decode, codes: Tensor) -> Tensor:
    """Paint codes (N, k) batch by batch; the pictures come back on the CPU."""
    return torch.cat([decode(part).cpu() for part in codes.split(BATCH)])


def reconstruction_quality(decode: Decode, codes: Tensor, images: Tensor) -> Quality:
    """Compare pictures painted from codes (N, 36) with the originals (N, 3, S, S) in [-1, 1]."""
    painted = decode_all(decode, codes)
    values = psnr(painted, images)
    return Quality(float(values.mean()), float(values.std()), float((painted - images).abs().mean()))
