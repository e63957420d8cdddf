"""What several benchmarks share: their arguments, and a tokenizer that is trained, made fair and measured."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svq.data import ImageSet, open_images
from svq.data.codes import Codes
from svq.evaluation.codebook import codebook_use
from svq.evaluation.fid import distance_to
from svq.evaluation.order import Order, measure_order
from svq.evaluation.reconstruction import psnr
from svq.pixels import to_float
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig, TokenizerSettings
from svq.tokenizer.task import TokenizerTask
from svq.tokenizer.tokenize import tokenize
from svq.training.checkpoint import find, load_model
from svq.training.device import choose_device
from svq.training.log import read_log
from svq.training.runs import train_run

NULL_STEPS = 160  # half as many teach it nearly as much
NULL_RATE = 0.02
NULL_BATCH = 64


class Painter(NamedTuple):
    """A trained model, its run, and how it paints held-out pictures.

    Attributes:
        model: in evaluation mode, on the best device.
        run: what `train_run` said.
        originals: held-out pictures (N, 3, S, S) in [-1, 1].
        codes: theirs (N, 36).
        order: what they paint, by length of the prefix.
    """

    model: StyledTokenizer
    run: dict[str, Any]
    originals: Tensor
    codes: Tensor
    order: Order


class Trial(NamedTuple):
    """A trained tokenizer, the pictures and their codes, and what was measured."""

    tokenizer: StyledTokenizer
    images: ImageSet
    codes: Codes
    measured: dict[str, Any]


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all have; `out` is where results go if nothing else is said.

    What trains in a folder must have the settings it began with: give each table an ``--out`` of its own.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--data", default="openmoji")
    made.add_argument("--out", type=Path, default=Path(out))
    return made


def add_set(words: argparse.ArgumentParser) -> None:
    words.add_argument("--set", dest="assignments", metavar="KEY=VALUE", action="append", default=[])


def add_refine(words: argparse.ArgumentParser, default: int = 0) -> None:
    words.add_argument("--refine", type=int, default=default, help="compare each code with so many others")


def refined(name: str, refine: int) -> str:
    """Return the name of a result from codes that were searched for, or not, of one and the same model."""
    return f"{name}-refine-{refine}" if refine else name


def seconds_of(out: Path) -> float:
    """Return about how long a run has trained, by its log: over all its starts, up to each one's last record."""
    total = last = 0.0
    for seconds in (record["seconds"] for record in read_log(out) if "seconds" in record):
        if seconds < last:  # another start
            total += last
        last = seconds
    return round(total + last, 1)


def nearest(pictures: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the PSNR in dB (N,) of pictures (N, 3, S, S) with the nearest of the others (M, 3, S, S), and which it is.

    All are in [-1, 1].
    """
    found = [psnr(others, picture.expand_as(others)).max(0) for picture in pictures]
    return torch.stack([best.values for best in found]), torch.stack([best.indices for best in found])


def teach_null(model: StyledTokenizer, pictures: Tensor) -> None:
    """Fit what stands for a missing code, all other weights fixed, to paint prefixes as well as they can be.

    A model that saw no prefix in training has left it at its random start, and would be blamed for that at all k < 36.

    Args:
        model: a finished one, in evaluation mode; its `decoder.null` is changed.
        pictures: (N, 3, S, S) in [-1, 1], those of training.
    """
    device, null, tokens = model.device, model.decoder.null, model.config.tokens
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = torch.cat([model.code_latents(part.to(device)) for part in pictures.split(128)])
        null.copy_(model.decoder.condition(latents).mean(0, keepdim=True))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is null)
    optimizer = torch.optim.Adam([null], lr=NULL_RATE)
    for step in range(NULL_STEPS):
        optimizer.param_groups[0]["lr"] = NULL_RATE * (1 - step / NULL_STEPS)
        rows = torch.randint(len(pictures), (NULL_BATCH,), generator=draw)
        keep = (tokens ** torch.rand(NULL_BATCH, generator=draw)).long().to(device)  # as in training with prefixes
        loss = F.mse_loss(model.decoder(latents[rows.to(device)], keep), pictures[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def painter(
    settings: TokenizerSettings,
    images: ImageSet,
    out: Path,
    refine: int = 0,
    build: Callable[[TokenizerConfig], StyledTokenizer] = StyledTokenizer,
    title: str = "tokenizer",
) -> Painter:
    """Train what `build` makes into the folder `out`, or find it trained there, and measure how it paints.

    One that has seen no prefix in training is taught what stands for a missing code, by pictures of training.
    """
    task = TokenizerTask(settings.model, settings.train, images, build)
    run = train_run(title, lambda: task, settings.train, out)
    model = load_model(find(out), lambda _: build(settings.model)).eval().to(choose_device())
    if not settings.train.truncated_share:
        teach_null(model, to_float(images.batch(images.indices("train"))))
    originals = to_float(task.held_out)
    codes = torch.cat([model.encode(part, refine) for part in originals.split(128)])
    with distance_to(task.held_out, "random-conv") as distance:
        order = measure_order(model.decode, codes, originals, distance)
    return Painter(model, run, originals, codes, order)


def trial(settings: TokenizerSettings, data: str, out: Path, refine: int = 0) -> Trial:
    """Train a tokenizer into the folder `out`, or find it trained there, and measure order and codebook.

    The order is that of held-out pictures, the use of the codebook that of all.
    """
    images = open_images(data, settings.model.image_size)
    made = painter(settings, images, out, refine)
    codes = tokenize(made.model, images, refine=refine)
    use = codebook_use(codes.rows(), codes.codebook_size)
    measured = {
        "settings": settings.model_dump(mode="json"),
        "data": images.fingerprint,
        "refine": refine,
        "seconds": seconds_of(out),
        "device": made.model.device.type,
        "precision": made.run["precision"],
        "codes": codes.codebook_size,
        "used": use.used,
        "perplexity": use.perplexity,
        "least_entropy": min(use.entropy),
        **made.order._asdict(),
    }
    return Trial(made.model, images, codes, measured)
