"""What each code is worth: quality by length of the prefix, and the effect of each position.

Both take `decode`, a function from codes (B, k) int64 to pictures (B, 3, S, S) in [-1, 1].
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from svq.evaluation.reconstruction import psnr

Decode = Callable[[Tensor], Tensor]
BATCH = 128
MATTERS_DB = 0.05  # a position whose exchange costs at least this much counts as one that matters


def _decode_all(decode: Decode, codes: Tensor) -> Tensor:
    return torch.cat([decode(part).cpu() for part in codes.split(BATCH)])


def psnr_by_prefix(decode: Decode, codes: Tensor, images: Tensor, lengths: Iterable[int]) -> dict[int, float]:
    """Return the mean PSNR in dB of pictures painted from their first k codes, for each k.

    Args:
        decode: paints codes.
        codes: (N, 36) int64.
        images: (N, 3, S, S) in [-1, 1], the originals.
        lengths: the values of k.
    """
    return {k: float(psnr(_decode_all(decode, codes[:, :k]), images).mean()) for k in lengths}


def effect_by_position(decode: Decode, codes: Tensor, images: Tensor) -> list[float]:
    """Return, for each position, how many dB of PSNR are lost when its code comes from another picture.

    The other picture is the next one of the set, so the result is the same each time; the set should be
    shuffled. Positions whose codes are ignored give 0.
    """
    full = psnr(_decode_all(decode, codes), images).mean()
    effects = []
    for position in range(codes.shape[1]):
        swapped = codes.clone()
        swapped[:, position] = codes[:, position].roll(1)
        effects.append(float(full - psnr(_decode_all(decode, swapped), images).mean()))
    return effects


def positions_that_matter(effects: list[float]) -> int:
    """Return how many positions cost at least 0.05 dB when exchanged."""
    return sum(effect >= MATTERS_DB for effect in effects)
