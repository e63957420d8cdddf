"""From logits to codes: temperature, filters, and a draw that does not depend on the batch.

What is special: each image draws its 36 random numbers from a generator of its own, and a code is the
point where the cumulated probability, in float64, passes the number. No other image of the batch matters.
"""

import hashlib
import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from svq.errors import UserError

Schedule = float | Sequence[float]  # one number, or one for each position
TopK = int | Sequence[int] | None


def by_position(schedule: Schedule | TopK, tokens: int) -> list[float]:
    """Return the values of a schedule at all positions.

    Raises:
        UserError: it is no schedule, of another length, or not finite.
    """
    try:
        one = isinstance(schedule, Real) or getattr(schedule, "ndim", None) == 0  # NumPy and torch have their own
        values = [float(x) for x in ([schedule] * tokens if one else schedule)]  # type: ignore[union-attr, arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"expected a number to sample with, or one for each position, got {schedule!r}") from error
    if len(values) != tokens:
        raise UserError(f"expected a schedule of {tokens} numbers, one for each position, got {len(values)}")
    if not all(math.isfinite(value) for value in values):
        raise UserError(f"expected finite numbers to sample with, got {schedule}")
    return values


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
    logits: Tensor, temperature: float = 1.0, top_k: float | None = None, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Return the probabilities (B, K) float64 to draw from, temperature first and then the filters.

    Raises:
        UserError: an argument is out of range, or a logit is not finite.
    """
    in_range = 0 <= temperature < float("inf") and 0 < top_p <= 1 and 0 <= min_p <= 1
    if not in_range or (top_k is not None and (top_k < 1 or top_k != int(top_k))):
        raise UserError(
            "expected temperature >= 0, a whole top_k >= 1, 0 < top_p <= 1 and 0 <= min_p <= 1, "
            f"got {temperature}, {top_k}, {top_p} and {min_p}"
        )
    logits = logits.double()
    if not bool(logits.isfinite().all()):
        raise UserError("the logits are not finite; give less guidance, or other weights")
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    # The largest becomes 0 first: divided by a tiny temperature, the others become -inf and nothing becomes NaN.
    p = ((logits - logits.max(1, keepdim=True).values) / temperature).softmax(1)  # (B, K)
    ranked, order = p.sort(dim=1, descending=True, stable=True)
    keep = ranked >= min_p * ranked[:, :1]
    keep &= ranked.cumsum(1) - ranked < top_p  # the code that passes top_p is still in
    if top_k is not None:
        keep[:, int(top_k) :] = False
    ranked = ranked * keep
    return torch.zeros_like(p).scatter_(1, order, ranked / ranked.sum(1, keepdim=True))


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Draw one code each, (B,) int64, from probabilities (B, K) with uniform numbers (B,) in [0, 1)."""
    cumulated = probabilities.cumsum(1)
    # Scaled by the total, which rounding leaves a little off 1: never beyond the last code of probability > 0.
    target = noise[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True).squeeze(1).clamp_(max=probabilities.shape[1] - 1)
