"""How a codebook is used: over all positions, and position by position, where collapse shows first."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHUFFLES = 8  # of the labels, to know what mutual information chance alone gives


class CodebookUse(NamedTuple):
    """Use of a codebook by a set of pictures.

    Attributes:
        used: share of the codes that occur at all.
        perplexity: 2 to the entropy of the codes over all positions.
        entropy: bits at each position; few pictures cannot show more than log2 of their number.
        used_at: number of different codes at each position.
        information: bits that the code at each position tells about the class; empty without classes.
    """

    used: float
    perplexity: float
    entropy: list[float]
    used_at: list[int]
    information: list[float]


def codebook_use(codes: Tensor, codebook_size: int, labels: Tensor | None = None) -> CodebookUse:
    """Measure the use of a codebook.

    Args:
        codes: (N, T) int64 in [0, codebook_size).
        codebook_size: number of codes.
        labels: (N,) int64 classes, -1 for none; None leaves `information` empty.
    """
    codes = codes.cpu()
    counts = torch.stack([column.bincount(minlength=codebook_size) for column in codes.T]).double()  # (T, K)
    total = counts.sum(0)
    known = labels is not None and bool((labels >= 0).any())
    return CodebookUse(
        used=float((total > 0).double().mean()),
        perplexity=2 ** _entropy(total),
        entropy=[_entropy(row) for row in counts],
        used_at=[int((row > 0).sum()) for row in counts],
        information=[information(column, labels.cpu()) for column in codes.T] if known and labels is not None else [],
    )


def information(codes: Tensor, labels: Tensor) -> float:
    """Return the mutual information of codes (N,) and labels (N,) in bits, less what chance alone gives.

    Counted from few pictures, mutual information is far too large: many codes occur once, and "predict" their
    picture's class. The mean over shuffled labels shows by how much, and is subtracted.
    """
    codes, labels = codes[labels >= 0], labels[labels >= 0]
    rng = torch.Generator().manual_seed(0)
    chance = [_raw_information(codes, labels[torch.randperm(len(labels), generator=rng)]) for _ in range(SHUFFLES)]
    return _raw_information(codes, labels) - sum(chance) / SHUFFLES


def _raw_information(codes: Tensor, labels: Tensor) -> float:
    _, pairs = (codes * (int(labels.max()) + 1) + labels).unique(return_counts=True)  # most pairs never occur
    return _entropy(codes.bincount()) + _entropy(labels.bincount()) - _entropy(pairs)


def _entropy(counts: Tensor) -> float:
    p = counts.double() / counts.sum()
    return float(torch.special.entr(p).sum()) / math.log(2)
