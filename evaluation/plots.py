"""Plots, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

from matplotlib import pyplot as plt  # noqa: E402


def plot_curve(path: Path, records: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw a learning curve from the records of ``log.jsonl``: the training loss and the held-out metrics."""
    steps = [r for r in records if "loss" in r]
    evaluations = [r for r in records if "evaluation" in r]
    names = sorted(evaluations[0]["evaluation"], key=len) if evaluations else []
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    left.plot([r["images"] for r in steps], [r["loss"] for r in steps], linewidth=0.8)
    left.set(title=f"{title}: training loss", xlabel="images", yscale="log")
    for name in names:
        values = [r["evaluation"][name] for r in evaluations]
        right.plot([r["images"] for r in evaluations], values, marker=".", label=name)
    right.set(title="held-out pictures", xlabel="images")
    if names:
        right.legend(fontsize="small")
    _save(figure, path)


def plot_order(path: Path, by_prefix: Mapping[int, float], effects: Sequence[float]) -> None:
    """Draw PSNR by length of the prefix, and the effect of each position."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    left.plot(list(by_prefix), list(by_prefix.values()), marker=".")
    left.set(title="PSNR from the first k codes (dB)", xlabel="k")
    right.bar(range(1, len(effects) + 1), effects)
    right.set(title="PSNR lost when one code is exchanged (dB)", xlabel="position")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
