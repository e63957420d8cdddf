"""How well pictures are painted again: PSNR, from all codes and from each prefix."""

import torch
from torch import Tensor


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, (B,), for values in [-1, 1]."""
    error = (images - references).square().flatten(1).mean(1)  # (B,)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))
