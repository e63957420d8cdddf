"""Pictures turned, stretched and moved a little at random, for sets so small that a long run learns them by heart."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TURN = math.radians(10)  # at most, either way
STRETCH = 0.2  # of the width, and of the height by itself
MOVE = 0.1  # of the width and height, either way
NUMBERS = 5  # random ones for a picture


def jitter(images: Tensor, numbers: Tensor) -> Tensor:
    """Turn, stretch and move pictures; what comes into view continues the border.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        numbers: (B, 5) in [0, 1); of 0.5, a picture stays as it is.
    """
    turn, wide, high, right, down = (2 * numbers.to(images.dtype) - 1).unbind(1)  # 5 x (B,) in [-1, 1)
    cos, sin = (TURN * turn).cos(), (TURN * turn).sin()
    wide, high = 1 + STRETCH * wide, 1 + STRETCH * high
    rows = [cos * wide, -sin * high, 2 * MOVE * right, sin * wide, cos * high, 2 * MOVE * down]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # (B, S, S, 2)
    moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(-1, 1)
