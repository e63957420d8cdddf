"""How well pictures are painted again from their codes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svq.pixels import to_float, to_uint8

Decode = Callable[[Tensor], Tensor]  # codes (B, k) int64 -> pictures (B, 3, S, S) in [-1, 1]
Perception = Callable[[Tensor, Tensor], Tensor]  # pictures and references (B, 3, S, S) -> distances (B,)
Distance = Callable[[Tensor], float]  # pictures (N, 3, S, S) uint8 -> how far they are from the originals, as sets
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
def reconstruction_quality(
    decode: Decode,
    codes: Tensor,
    images: Tensor,
    perception: Perception | None = None,
    distance: Distance | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Quality:
    """Compare pictures painted from codes (N, 36) with the originals (N, 3, S, S) uint8, a batch at a time.

    Args:
        decode: paints codes.
        codes: the codes.
        images: the originals.
        perception: measures LPIPS, where its weights are at hand.
        distance: measures how far the painted pictures are from the originals, as a set.
        advance: called with the number of pictures compared since the last call.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in ("psnr", "ssim", "l1", "lpips", "painted")}
    for part, pixels in zip(codes.split(BATCH), images.split(BATCH), strict=True):
        painted, originals = decode(part).cpu(), to_float(pixels)
        found["psnr"].append(psnr(painted, originals))
        found["ssim"].append(ssim(painted, originals))
        found["l1"].append((painted - originals).abs().flatten(1).mean(1))
        if perception is not None:
            found["lpips"].append(perception(painted, originals))
        if distance is not None:
            found["painted"].append(to_uint8(painted))
        advance(len(part))
    values = {name: torch.cat(parts) for name, parts in found.items() if parts}
    return Quality(
        psnr=float(values["psnr"].mean()),
        psnr_spread=float(values["psnr"].std()),
        ssim=float(values["ssim"].mean()),
        l1=float(values["l1"].mean()),
        lpips=float(values["lpips"].mean()) if perception is not None else None,
        frechet=distance(values["painted"]) if distance is not None else None,
    )
