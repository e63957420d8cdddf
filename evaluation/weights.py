"""Read files of weights that others made, safely: nothing in them is executed."""

from pathlib import Path

import torch
from torch import Tensor

from svq.errors import UserError


def read_weights(path: Path, what: str, has: str) -> dict[str, Tensor]:
    """Read a file of weights by name.

    Args:
        path: the file.
        what: what it should hold, for the message, such as ``VGG16 (torchvision's vgg16-397923af.pth)``.
        has: the name of a weight that it must hold.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"no file of weights at {path}; expected those of {what}")
    try:
        weights = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a foreign file can make the reader raise almost anything
        raise UserError(f"{path} is not a file of weights; expected those of {what}") from error
    if not isinstance(weights, dict) or has not in weights:
        raise UserError(f"{path} holds other weights; expected those of {what}")
    return weights
