"""From logits to codes: temperature, filters, and a draw that does not depend on the batch.

What is special: each image draws its 36 random numbers from a generator of its own, and a code is the
point where the cumulated probability, in float64, passes the number. No other image of the batch matters.
"""

import hashlib
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from svq.errors import UserError

Schedule = float | Sequence[float]  # one number, or one for each position
TopK = int | Sequence[int] | None


def at_position(schedule: Schedule, position: int) -> float:
    """Return the value of a schedule at a position.

    Raises:
        UserError: the schedule is too short.
    """
    if isinstance(schedule, int | float | Real):  # NumPy has its own
        return float(schedule)
    if position >= len(schedule):
        raise UserError(f"a schedule of {len(schedule)} numbers has none for position {position + 1}")
    return float(schedule[position])


def image_noise(seed: int, first: int, n: int, tokens: int) -> Tensor:
    """Return uniform numbers in [0, 1), (n, tokens) float64, of the images numbered from `first` on."""
    rows = []
    for image in range(first, first + n):
        # Hashed, because neighbouring seeds of a generator can give related numbers.
        digest = hashlib.sha256(f"{seed}:{image}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.rand(tokens, generator=rng, dtype=torch.float64))
    return torch.stack(rows) if rows else torch.empty(0, tokens, dtype=torch.float64)


def code_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Return the probabilities (B, K) float64 to draw from, temperature first and then the filters.

    Raises:
        UserError: an argument is out of range.
    """
    in_range = 0 <= temperature < float("inf") and 0 < top_p <= 1 and 0 <= min_p <= 1
    if not in_range or (top_k is not None and top_k < 1):
        raise UserError(
            "expected temperature >= 0, top_k >= 1, 0 < top_p <= 1 and 0 <= min_p <= 1, "
            f"got {temperature}, {top_k}, {top_p} and {min_p}"
        )
    logits = logits.double()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    # The largest becomes 0 first: divided by a tiny temperature, the others become -inf and nothing becomes NaN.
    p = ((logits - logits.max(1, keepdim=True).values) / temperature).softmax(1)  # (B, K)
    ranked, order = p.sort(dim=1, descending=True, stable=True)
    keep = ranked >= min_p * ranked[:, :1]
    keep &= ranked.cumsum(1) - ranked < top_p  # the code that passes top_p is still in
    if top_k is not None:
        keep[:, top_k:] = False
    ranked = ranked * keep
    return torch.zeros_like(p).scatter_(1, order, ranked / ranked.sum(1, keepdim=True))


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Draw one code each, (B,) int64, from probabilities (B, K) with uniform numbers (B,) in [0, 1)."""
    cumulated = probabilities.cumsum(1)
    # Scaled by the total, which rounding leaves a little off 1: never beyond the last code of probability > 0.
    target = noise[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True).squeeze(1).clamp_(max=probabilities.shape[1] - 1)
