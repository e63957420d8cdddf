"""The learning curve of a run, as a PNG file."""

from pathlib import Path

from matplotlib.figure import Figure

from svq.files import new_file
from svq.training.log import read_log


def draw_curve(out: Path, title: str) -> None:
    """Draw ``curve.png`` from a run's ``log.jsonl``: the training loss and the held-out metrics."""
    records = read_log(out)
    steps = [r for r in records if "loss" in r]
    evaluations = [r for r in records if "evaluation" in r]
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [r["loss"] for r in steps]
    left.plot([r["images"] for r in steps], losses, linewidth=0.8)
    # Below 0 comes what has an entropy to reward, or a discriminator to deceive.
    scale = "log" if min(losses, default=1) > 0 else "linear"
    left.set(title=f"{title}: training loss", xlabel="images", yscale=scale)
    for name in evaluations[0]["evaluation"] if evaluations else ():
        values = [r["evaluation"][name] for r in evaluations]
        right.plot([r["images"] for r in evaluations], values, marker=".", label=name)
    right.set(title="held-out examples", xlabel="images")
    if evaluations:
        right.legend(fontsize="small")
    with new_file(out / "curve.png") as work:
        figure.savefig(work, dpi=110)
