"""Better codes for a picture than the encoder's, by a search with the decoder.

What is special: an encoder answers in one go, and so never quite as well as the decoder would let it (the
amortization gap, Cremer et al. 2018, arXiv:1801.03558). Here its answer is where a descent begins, over the
latents of each picture by themselves, while all weights stay (semi-amortized, Kim et al. 2018, arXiv:1802.02550).
"""

import torch
from torch import Tensor, nn

from svq.tokenizer.quantizer import Quantizer

AT_ONCE = 32  # pictures; what the decoder keeps for a backward pass is many times what encoding needs
RATE = 0.2  # of the first step; a latent has variance 1
BETAS = (0.5, 0.9)  # a search of few steps wants a short memory
GOLDEN = 0.6180339887  # its multiples fill an interval evenly, however many are taken


def refine(decoder: nn.Module, quantizer: Quantizer, latents: Tensor, images: Tensor, steps: int) -> Tensor:
    """Search near the encoder's latents for codes that paint the pictures better.

    Every second step paints from a prefix, so that the codes stay in their order.

    Args:
        decoder: latents (B, k, d) -> pictures (B, 3, S, S).
        quantizer: that of the same tokenizer, in evaluation mode.
        latents: (B, 36, d), normalised, as the encoder has them.
        images: (B, 3, S, S) in [-1, 1], what should be painted.
        steps: forward and backward passes of the decoder.

    Returns:
        Codes (B, 36) int64. All 36 together paint no picture worse, in mean square error, than the encoder's do.
    """
    batches = zip(latents.split(AT_ONCE), images.split(AT_ONCE), strict=True)
    return torch.cat([_refine(decoder, quantizer, *batch, steps) for batch in batches])


@torch.inference_mode(False)
@torch.enable_grad()
def _refine(decoder: nn.Module, quantizer: Quantizer, latents: Tensor, images: Tensor, steps: int) -> Tensor:
    latents = latents.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    tokens = latents.shape[1]
    least = latents.new_full(latents.shape[:1], torch.inf)  # (B,)
    best = torch.zeros(latents.shape[:2], dtype=torch.int64, device=latents.device)  # (B, 36)
    for i in range(steps + 1):
        whole = i % 2 == 0 or i == steps
        kept = tokens if whole else 1 + int((tokens - 1) * (i * GOLDEN % 1))
        seen, codes = _straight_through(quantizer, latents)
        painted = decoder(seen[:, :kept]).clamp(-1, 1)
        error = (painted - images).square().mean((1, 2, 3))  # (B,)
        if whole:
            better = error.detach() < least
            least = torch.where(better, error.detach(), least)
            best = torch.where(better[:, None], codes, best)
        if i < steps:
            (latents.grad,) = torch.autograd.grad(error.sum(), [latents])
            optimizer.step()
            schedule.step()
    return best


def _straight_through(quantizer: Quantizer, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return latents on the codebook, with the gradient of the continuous ones, and their codes."""
    with torch.no_grad():
        on_codes, codes, _ = quantizer(latents)
    continuous = quantizer.continuous(latents)
    # Bengio et al. 2013, arXiv:1308.3432; the library's quantizers do so in training mode only.
    return continuous + (on_codes - continuous).detach(), codes
