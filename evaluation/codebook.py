"""How a codebook is used: over all positions, and position by position, where collapse shows first."""

from typing import NamedTuple

import torch
from torch import Tensor


class CodebookUse(NamedTuple):
    """Use of a codebook by a set of pictures.

    Attributes:
        used: share of the codes that occur at all.
        perplexity: 2 to the entropy of the codes over all positions.
        entropy: bits at each position; few pictures cannot show more than log2 of their number.
        used_at: number of different codes at each position.
    """

    used: float
    perplexity: float
    entropy: list[float]
    used_at: list[int]


def codebook_use(codes: Tensor, codebook_size: int) -> CodebookUse:
    """Measure the use of a codebook by codes (N, 36) int64 in [0, codebook_size)."""
    n, tokens = codes.shape
    counts = torch.zeros(tokens, codebook_size, dtype=torch.float64)
    counts.scatter_add_(1, codes.T.cpu(), torch.ones(tokens, n, dtype=torch.float64))  # (36, K)
    total = counts.sum(0)
    return CodebookUse(
        used=float((total > 0).double().mean()),
        perplexity=float(2 ** _entropy(total)),
        entropy=[float(_entropy(row)) for row in counts],
        used_at=[int((row > 0).sum()) for row in counts],
    )


def _entropy(counts: Tensor) -> Tensor:
    p = counts / counts.sum()
    return torch.special.entr(p).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64))
