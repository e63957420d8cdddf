"""Pictures as bytes, as files and data sets hold them, and as numbers in [-1, 1], as models see them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds and hundreds of MB, which processes that only read pictures can spare
    from torch import Tensor


def to_float(images: "Tensor") -> "Tensor":
    """Map uint8 [0, 255] to float [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: "Tensor") -> "Tensor":
    """Map float [-1, 1] to uint8 [0, 255], rounding and clipping."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).byte()
