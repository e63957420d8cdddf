"""Plots, as PNG files."""

from pathlib import Path

from matplotlib.figure import Figure

from svq.evaluation.codebook import CodebookUse
from svq.evaluation.order import Order
from svq.files import new_file


def plot_order(path: Path, order: Order) -> None:
    """Draw PSNR (and distance, where measured) by length of the prefix, and the effect of each position."""
    panels = 3 if order.frechet else 2
    figure = Figure(figsize=(5 * panels, 3.5), layout="constrained")
    axes = figure.subplots(1, panels)
    axes[0].plot(list(order.psnr), list(order.psnr.values()), marker=".")
    axes[0].set(title="PSNR from the first k codes (dB)", xlabel="k")
    axes[1].bar(range(1, len(order.effects) + 1), order.effects)
    axes[1].set(title="PSNR lost when one code is exchanged (dB)", xlabel="position")
    if order.frechet:
        axes[2].plot(list(order.frechet), list(order.frechet.values()), marker=".")
        axes[2].set(title="Fréchet distance from the first k codes", xlabel="k", yscale="log")
    _save(figure, path)


def plot_codebook(path: Path, use: CodebookUse, codebook_size: int) -> None:
    """Draw how many different codes, and how many bits, each position uses."""
    panels = 3 if use.information else 2
    figure = Figure(figsize=(5 * panels, 3.5), layout="constrained")
    axes = figure.subplots(1, panels)
    positions = range(1, len(use.entropy) + 1)
    axes[0].bar(positions, use.used_at)
    axes[0].set(title=f"different codes, of {codebook_size:,}", xlabel="position")
    axes[1].bar(positions, use.entropy)
    axes[1].set(title="entropy (bits)", xlabel="position")
    if use.information:
        axes[2].bar(positions, use.information)
        axes[2].set(title="information about the class (bits)", xlabel="position")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with new_file(path) as work:
        figure.savefig(work, dpi=110)
