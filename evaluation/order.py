"""What each code is worth: quality by length of the prefix, and the effect of each position."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from svq.evaluation.reconstruction import Decode, Distance, decode_all, psnr
from svq.pixels import to_uint8

MATTERS_DB = 0.05  # a position whose exchange costs at least this much counts as one that matters


class Order(NamedTuple):
    """The order of the codes, measured.

    Attributes:
        psnr: mean PSNR in dB of pictures painted from the first k codes, by k.
        psnr_area: its mean over all k, one number for the curve.
        last_half: dB that the second half of the codes adds.
        frechet: distance of those pictures to the originals, by k; empty if none was asked for.
        frechet_area: its mean over all k, or None.
        effects: dB lost when the code at a position comes from another picture, by position.
        matter: how many positions lose at least 0.05 dB.
    """

    psnr: dict[int, float]
    psnr_area: float
    last_half: float
    frechet: dict[int, float]
    frechet_area: float | None
    effects: list[float]
    matter: int


def measure_order(
    decode: Decode,
    codes: Tensor,
    images: Tensor,
    distance: Distance | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Order:
    """Measure the order of codes.

    Args:
        decode: paints codes.
        codes: (N, T) int64, in the order of the pictures, which should be shuffled.
        images: (N, 3, S, S) in [-1, 1], the originals.
        distance: measures how far painted pictures are from the originals, as a set.
        advance: called with the number of pictures painted since the last call.
    """
    tokens = codes.shape[1]
    by_psnr: dict[int, float] = {}
    by_frechet: dict[int, float] = {}
    for k in range(1, tokens + 1):
        painted = decode_all(decode, codes[:, :k])
        by_psnr[k] = float(psnr(painted, images).mean())
        if distance is not None:
            by_frechet[k] = distance(to_uint8(painted))
        advance(len(codes))
    effects = effect_by_position(decode, codes, images, advance)
    return Order(
        psnr=by_psnr,
        psnr_area=sum(by_psnr.values()) / tokens,
        last_half=by_psnr[tokens] - by_psnr[tokens // 2],
        frechet=by_frechet,
        frechet_area=sum(by_frechet.values()) / tokens if by_frechet else None,
        effects=effects,
        matter=sum(effect >= MATTERS_DB for effect in effects),
    )


def effect_by_position(
    decode: Decode, codes: Tensor, images: Tensor, advance: Callable[[int], None] = lambda n: None
) -> list[float]:
    """Return, for each position, how many dB of PSNR are lost when its code comes from another picture.

    The other picture is the one before it in the set, so the result is the same each time. Positions whose codes
    are ignored give 0.
    """
    full = psnr(decode_all(decode, codes), images).mean()
    effects = []
    for position in range(codes.shape[1]):
        swapped = codes.clone()
        swapped[:, position] = codes[:, position].roll(1)
        effects.append(float(full - psnr(decode_all(decode, swapped), images).mean()))
        advance(len(codes))
    return effects
