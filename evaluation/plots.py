"""Plots, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure


def plot_order(path: Path, by_prefix: Mapping[int, float], effects: Sequence[float]) -> None:
    """Draw PSNR by length of the prefix, and the effect of each position."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(list(by_prefix), list(by_prefix.values()), marker=".")
    left.set(title="PSNR from the first k codes (dB)", xlabel="k")
    right.bar(range(1, len(effects) + 1), effects)
    right.set(title="PSNR lost when one code is exchanged (dB)", xlabel="position")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
