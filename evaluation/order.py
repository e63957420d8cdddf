"""What each code is worth: quality by length of the prefix, and the effect of each position."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from svq.evaluation.reconstruction import Decode, decode_all, psnr

MATTERS_DB = 0.05  # a position whose exchange costs at least this much counts as one that matters


class Order(NamedTuple):
    """PSNR in dB by number of leading codes, dB lost by exchanging each position, how many positions matter."""

    psnr: dict[int, float]
    effects: list[float]
    matter: int


def measure_order(decode: Decode, codes: Tensor, images: Tensor) -> Order:
    """Measure codes (N, 36) int64 of pictures (N, 3, S, S) in [-1, 1], given what paints them."""
    effects = effect_by_position(decode, codes, images)
    lengths = range(1, codes.shape[1] + 1)
    matter = sum(effect >= MATTERS_DB for effect in effects)
    return Order(psnr_by_prefix(decode, codes, images, lengths), effects, matter)


def psnr_by_prefix(decode: Decode, codes: Tensor, images: Tensor, lengths: Iterable[int]) -> dict[int, float]:
    """Return the mean PSNR in dB of pictures painted from their first k codes, for each k in `lengths`."""
    return {k: float(psnr(decode_all(decode, codes[:, :k]), images).mean()) for k in lengths}


def effect_by_position(decode: Decode, codes: Tensor, images: Tensor) -> list[float]:
    """Return, for each position, how many dB of PSNR are lost when its code comes from another picture.

    The other picture is the next one of the set, so the result is the same each time; the set should be
    shuffled. Positions whose codes are ignored give 0.
    """
    full = psnr(decode_all(decode, codes), images).mean()
    effects = []
    for position in range(codes.shape[1]):
        swapped = codes.clone()
        swapped[:, position] = codes[:, position].roll(1)
        effects.append(float(full - psnr(decode_all(decode, swapped), images).mean()))
    return effects
