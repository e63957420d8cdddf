"""Better codes for a picture than the encoder's, by a search with the decoder.

What is special: an encoder answers in one go, and so never quite as well as the decoder would let it (the
amortization gap, Cremer et al. 2018, arXiv:1801.03558). Here each of its codes is compared with a few others, by what
they paint. Two things help: a condition enters in a layer of its own, so that only the layers from
there on are run again; and an encoder that looks on answers anew after each group, to what was changed before it.
"""

from typing import Protocol

import torch
from torch import Tensor

from svq.tokenizer.decoder import StyledDecoder
from svq.tokenizer.quantizer import Quantizer

AT_ONCE = 160  # paintings in a pass of the decoder
SEARCH_BATCH = 32  # pictures; a search is slow, so whoever waits for it is to see it go forward


class Write(Protocol):
    """The encoder: pictures (B, 3, S, S) -> normalised latents (B, 36, d), those after `given` in answer to it."""

    def __call__(self, images: Tensor, *, given: Tensor | None = None) -> Tensor: ...


def search_codes(
    decoder: StyledDecoder, quantizer: Quantizer, write: Write, images: Tensor, group: int, others: int
) -> Tensor:
    """Search near the encoder's latents for codes that paint the pictures better.

    Position by position, the codes nearest to the encoder's latent take the place of its code. The best is the one
    that paints least error from all 36 codes and from half of those that follow, so that the codes stay in their order.

    Args:
        decoder: that of a tokenizer.
        quantizer: that of the same tokenizer, in evaluation mode.
        write: the encoder of the same tokenizer.
        images: (B, 3, S, S) in [-1, 1], what should be painted.
        group: how many latents the encoder writes at a time; 36 if all.
        others: how many codes to try at each position, besides the one that is there.

    Returns:
        Codes (B, 36) int64. All 36 together paint no picture worse, in mean square error, than the encoder's do.
    """
    others = min(others, quantizer.codebook_size - 1)
    parts = images.split(max(1, AT_ONCE // (1 + others)))
    return torch.cat([_search(decoder, quantizer, write, part, group, others) for part in parts])


def _search(
    decoder: StyledDecoder, quantizer: Quantizer, write: Write, images: Tensor, group: int, others: int
) -> Tensor:
    codebook = quantizer.lookup(torch.arange(quantizer.codebook_size, device=images.device)[None])[0]  # (K, d)
    x = decoder.blank(len(images))  # tokens, painted on with all codes before `first`

    def best(choices: Tensor, first: int, prefix: int | None = None) -> Tensor:
        """Return of choices (B, c, 36 - first) for the rest of the codes the best; the first, if none is better."""
        whole = error(choices, first)
        total = whole if prefix is None else whole + error(choices[..., : prefix - first], first)
        which = total.masked_fill(whole > whole[:, :1], torch.inf).argmin(1)  # (B,)
        return choices[torch.arange(len(choices), device=choices.device), which]  # (B, 36 - first)

    def error(choices: Tensor, first: int) -> Tensor:
        return torch.cat([errors(part, first) for part in choices.split(AT_ONCE, dim=1)], dim=1)  # (B, c)

    def errors(choices: Tensor, first: int) -> Tensor:
        count = choices.shape[1]
        latents = quantizer.lookup(choices.flatten(0, 1))  # (B c, n, d)
        painted = decoder.complete(x.repeat_interleave(count, 0), latents, first).clamp(-1, 1)
        return (painted.unflatten(0, (-1, count)) - images[:, None]).square().mean((2, 3, 4))

    latents = write(images)  # (B, 36, d)
    codes = quantizer(latents).codes  # (B, 36)
    tokens = codes.shape[1]
    for first in range(0, tokens, 2):  # a styled layer takes two
        if first and first % group == 0:
            latents = write(images, given=codes[:, :first])
            anew = quantizer(latents[:, first:]).codes
            codes[:, first:] = best(torch.stack([codes[:, first:], anew], dim=1), first)
        for position in (first, first + 1):
            distance = torch.cdist(quantizer.continuous(latents[:, position : position + 1]), codebook)[:, 0]  # (B, K)
            distance.scatter_(1, codes[:, position : position + 1], torch.inf)  # it is among the choices anyway
            choices = codes[:, None, first:].repeat(1, 1 + others, 1)
            choices[:, 1:, position - first] = distance.topk(others, largest=False).indices
            codes[:, first:] = best(choices, first, prefix=(position + 1 + tokens) // 2)
        x = decoder.style(x, quantizer.lookup(codes[:, first : first + 2]), first)
    return codes
