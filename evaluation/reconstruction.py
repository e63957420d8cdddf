"""How well pictures are painted again from their codes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Decode = Callable[[Tensor], Tensor]  # codes (B, k) int64 -> pictures (B, 3, S, S) in [-1, 1]
Perception = Callable[[Tensor, Tensor], Tensor]  # pictures and references (B, 3, S, S) -> distances (B,)
Distance = Callable[[Tensor], float]  # pictures (N, 3, S, S) in [-1, 1] -> how far they are from the originals
BATCH = 128


class Quality(NamedTuple):
    """Means over the pictures.

    Attributes:
        psnr: in dB.
        psnr_spread: standard deviation of the PSNR over the pictures, in dB.
        ssim: structural similarity, in [-1, 1].
        l1: absolute error of values in [-1, 1].
        lpips: perceptual distance, or None where it was not asked for.
        frechet: Fréchet distance of painted pictures to originals, as sets (on Inception features: rFID), or None.
    """

    psnr: float
    psnr_spread: float
    ssim: float
    l1: float
    lpips: float | None
    frechet: float | None


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, (B,), for values in [-1, 1]."""
    error = (images - references).square().flatten(1).mean(1)  # (B,)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Return the structural similarity of each picture, (B,), for values in [-1, 1] (Wang et al. 2004)."""
    # Imported here: it takes seconds, and only this function needs it.
    from torchmetrics.functional.image import structural_similarity_index_measure

    # Brightness must not be negative: the measure compares means by their ratio.
    a, b = (images + 1) / 2, (references + 1) / 2
    result = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert isinstance(result, Tensor)
    return result


def decode_all(decode: Decode, codes: Tensor) -> Tensor:
    """Paint codes (N, k) batch by batch; the pictures come back on the CPU."""
    return torch.cat([decode(part).cpu() for part in codes.split(BATCH)])


@torch.no_grad()
def _mean_distance(perception: Perception, painted: Tensor, images: Tensor) -> float:
    return float(torch.cat([perception(a, b) for a, b in _pairs(painted, images)]).mean())


def _pairs(painted: Tensor, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield as many at a time as what is measured on them has room for."""
    return zip(painted.split(BATCH), images.split(BATCH), strict=True)


def reconstruction_quality(
    decode: Decode,
    codes: Tensor,
    images: Tensor,
    perception: Perception | None = None,
    distance: Distance | None = None,
) -> Quality:
    """Compare pictures painted from codes (N, 36) with the originals (N, 3, S, S) in [-1, 1].

    Args:
        decode: paints codes.
        codes: the codes.
        images: the originals.
        perception: measures LPIPS, where its weights are at hand.
        distance: measures how far the painted pictures are from the originals, as a set.
    """
    painted = decode_all(decode, codes)
    values = psnr(painted, images)
    return Quality(
        psnr=float(values.mean()),
        psnr_spread=float(values.std()),
        ssim=float(torch.cat([ssim(a, b) for a, b in _pairs(painted, images)]).mean()),
        l1=float((painted - images).abs().mean()),
        lpips=_mean_distance(perception, painted, images) if perception is not None else None,
        frechet=distance(painted) if distance is not None else None,
    )
