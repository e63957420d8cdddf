"""The instruments: distances between sets of pictures, reconstruction, order, and use of the codebook."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from svq.cli import options
from svq.cli.last import last
from svq.cli.output import check_apart, check_file, check_folder, say, show, write_json
from svq.cli.source import open_some, open_source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from svq.data import ImageSet
    from svq.evaluation.reconstruction import Distance
    from svq.tokenizer import StyledTokenizer

app = typer.Typer(help="Measure: fid, recon, order, codebook.", no_args_is_help=True)

SMALLEST, LARGEST = 8, 4096  # sides of pictures that are compared, in pixels

FID_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq eval fid[/cyan] — the last samples against OpenMoji

[cyan]svq eval fid --samples runs/samples --reference photos/ --weights weights-inception-2015-12-05-6726825d.pth[/cyan]

[cyan]svq eval fid --features random-conv --json[/cyan]
"""
ORDER_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq eval order[/cyan] — the last tokenizer, held-out OpenMoji

[cyan]svq eval order --tokenizer runs/photos --data photos/ --features random-conv --out runs/photos/order[/cyan]
"""
RECON_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq eval recon --tokenizer runs/photos --data photos/ --split val --json[/cyan]

[cyan]svq eval recon --features inception --weights weights-inception-2015-12-05-6726825d.pth[/cyan] — rFID
"""
CODEBOOK_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq eval codebook --out runs/codebook[/cyan]
"""
SetFeatures = Annotated[
    Literal["none", "inception", "random-conv"],
    typer.Option("--features", help="What sees, for the Fréchet distance between sets."),
]
Count = Annotated[int, typer.Option("--n", min=2, help="Pictures to measure on, at most.")]


class _Encoded(NamedTuple):
    """A tokenizer, some pictures of a set, their codes and labels, and where all this came from."""

    tokenizer: "StyledTokenizer"
    pictures: "ImageSet"
    chosen: "NDArray[np.int64]"
    codes: "Tensor"
    labels: "Tensor"
    receipt: dict[str, Any]

    def named(self) -> dict[str, str]:
        """Return the row of a table that says what was measured."""
        return {"tokenizer": str(self.receipt["tokenizer"]["path"])}

    def images(self) -> "Tensor":
        """Return the pictures (N, 3, S, S) uint8."""
        return self.pictures.batch(self.chosen)


def _encode(run: Path | None, data: str, split: Literal["train", "val", "all"], n: int, refine: int) -> _Encoded:
    import torch

    from svq.errors import DataError
    from svq.provenance import versions
    from svq.tokenizer import StyledTokenizer
    from svq.tokenizer.tokenize import tokenize
    from svq.training.log import bar

    path = last("tokenizer", run)
    tokenizer = StyledTokenizer.from_pretrained(path)
    pictures, chosen = open_some(data, tokenizer.config.image_size, split, n)
    if len(chosen) < 2:
        more = "give more pictures" if split == "all" else "try --split all"
        raise DataError(f"{data} has {len(chosen)} pictures in split '{split}'; 2 or more are needed, {more}")
    with bar("encode", len(chosen)) as advance:
        codes = tokenize(tokenizer, pictures, chosen, refine=refine, advance=advance)
    receipt = {
        "tokenizer": {"path": path, "fingerprint": codes.tokenizer},
        "data": {"source": data, "fingerprint": codes.data, "split": split, "count": len(chosen)},
        "refine": refine,
        "versions": versions(),
    }
    return _Encoded(tokenizer, pictures, chosen, codes.rows(), torch.from_numpy(codes.labels), receipt)


def _check_weights(features: str, weights: Path | None) -> None:
    from svq.errors import UserError

    if weights is not None and features != "inception":
        raise UserError(f"--weights are Inception's, and --features is {features}; give --features inception, too")


@contextmanager
def _distance(
    features: Literal["none", "inception", "random-conv"], weights: Path | None, encode: Callable[[], _Encoded]
) -> "Iterator[tuple[_Encoded, Tensor, Distance | None]]":
    """Yield the encoded pictures, themselves in uint8, and what measures the distance of others to them, as sets."""
    from svq.evaluation.fid import FEW, distance_to, inception_weights

    _check_weights(features, weights)
    if features == "inception":
        weights = inception_weights(weights)  # before anything slow
    encoded = encode()
    images = encoded.images()
    if features == "none":
        yield encoded, images, None
        return
    if len(images) < FEW:
        say(f"note: {len(images)} pictures: the Fréchet distance is biased upwards below {FEW}")
    with distance_to(images, features, weights) as measure:
        yield encoded, images, measure


@app.command(epilog=FID_EXAMPLES)
def fid(
    samples: Annotated[
        str | None,
        typer.Option("--samples", metavar="SOURCE", help="Pictures to judge.", show_default="the last samples"),
    ] = None,
    reference: Annotated[
        str, typer.Option("--reference", metavar="SOURCE", help="What they should resemble.")
    ] = "openmoji",
    split: Annotated[
        Literal["train", "val", "all"], typer.Option("--split", help="Which pictures of the reference.")
    ] = "all",
    features: Annotated[
        Literal["inception", "random-conv"], typer.Option("--features", help="What sees.")
    ] = "inception",
    weights: options.InceptionWeights = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", min=SMALLEST, max=LARGEST, help="Both sets at this size.", show_default="the samples'"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the receipt here, too.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure FID, KID and Inception score of samples against a reference."""
    from svq.data.prepared import cache_root
    from svq.data.sources import native_size
    from svq.errors import DataError
    from svq.evaluation.fid import PictureSet, distance, inception_weights
    from svq.training.log import bar

    check_file(out, ".json")
    _check_weights(features, weights)
    if features == "inception":
        weights = inception_weights(weights)  # before anything slow
    judged = samples or str(last("samples", None))
    size = image_size or native_size(judged)
    if not SMALLEST <= size <= LARGEST:
        raise DataError(f"the first picture of {judged} has {size} px; give --image-size, {SMALLEST} to {LARGEST}")
    a, b = open_source(judged, size), open_source(reference, size)
    with bar("measure", None) as advance:
        result = distance(
            PictureSet(a.images, judged, a.fingerprint),
            PictureSet(b.images, f"{reference} ({split})", f"{b.fingerprint}-{split}", b.indices(split)),
            features=features,
            weights=weights,
            cache=cache_root() / "statistics",
            advance=advance,
        )
    if out:
        write_json(out, result)
    for warning in result["warnings"]:
        say(f"note: {warning}")
    show(result, {name: f"{value:.4g}" for name, value in result["metrics"].items()}, as_json)


@app.command(epilog=RECON_EXAMPLES)
def recon(
    tokenizer: options.TokenizerRun = None,
    data: options.Data = "openmoji",
    split: options.Split = "val",
    n: Count = 2048,
    refine: options.Refine = 0,
    vgg16: Annotated[
        Path | None, typer.Option("--vgg16", metavar="PATH", help="torchvision's file of VGG16 weights: adds LPIPS.")
    ] = None,
    features: SetFeatures = "none",
    weights: options.InceptionWeights = None,
    as_json: options.Json = False,
) -> None:
    """Measure how well pictures are painted again from all their codes; with --features inception also rFID."""
    from svq.evaluation.lpips import LPIPS
    from svq.evaluation.reconstruction import reconstruction_quality
    from svq.training.log import bar

    perception = LPIPS(vgg16) if vgg16 is not None else None
    encode = partial(_encode, tokenizer, data, split, n, refine)
    with _distance(features, weights, encode) as (encoded, images, distance):
        decode, codes = encoded.tokenizer.decode, encoded.codes
        with bar("measure", len(codes)) as advance:
            quality = reconstruction_quality(decode, codes, images, perception, distance, advance)
    result = {**quality._asdict(), "features": features, **encoded.receipt}
    rows = {
        "PSNR": f"{quality.psnr:.2f} dB (spread {quality.psnr_spread:.2f})",
        "SSIM": f"{quality.ssim:.4f}",
        "mean absolute error": f"{quality.l1:.4f} (values from -1 to 1)",
    }
    if quality.lpips is not None:
        rows["LPIPS"] = f"{quality.lpips:.4f}"
    if quality.frechet is not None:
        rows["rFID" if features == "inception" else f"Fréchet distance ({features})"] = f"{quality.frechet:.3f}"
    show(result, rows | encoded.named(), as_json)


@app.command(epilog=ORDER_EXAMPLES)
def order(
    tokenizer: options.TokenizerRun = None,
    data: options.Data = "openmoji",
    split: options.Split = "val",
    n: Count = 512,
    refine: options.Refine = 0,
    features: SetFeatures = "none",
    weights: options.InceptionWeights = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for a plot and a strip.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure what each code is worth: quality by length of the prefix, and the effect of each position."""
    from svq.evaluation.order import measure_order
    from svq.evaluation.pictures import save_prefixes
    from svq.evaluation.plots import plot_order
    from svq.pixels import to_float
    from svq.training.log import bar

    check_folder(out)
    check_apart(out, data)
    encode = partial(_encode, tokenizer, data, split, n, refine)
    with _distance(features, weights, encode) as (encoded, pixels, distance):
        decode, codes, images = encoded.tokenizer.decode, encoded.codes, to_float(pixels)
        with bar("measure", 2 * codes.numel()) as advance:
            measured = measure_order(decode, codes, images, distance, advance)
    result = {**measured._asdict(), "features": features, **encoded.receipt}
    if out:
        plot_order(out / "order.png", measured)
        save_prefixes(out / "prefixes.png", decode, codes, images, (1, 2, 4, 8, 16, 24))
        write_json(out / "order.json", result)
    shown = [k for k in (1, 2, 4, 8, 12, 24) if k < codes.shape[1]] + [codes.shape[1]]
    rows = {f"PSNR, first {k}": f"{measured.psnr[k]:.2f} dB" for k in shown}
    rows["PSNR, mean over all lengths"] = f"{measured.psnr_area:.2f} dB"
    rows["added by the second half"] = f"{measured.last_half:.2f} dB"
    if measured.frechet_area is not None:
        rows[f"Fréchet distance ({features}), mean"] = f"{measured.frechet_area:.3f}"
    rows["positions that matter"] = f"{measured.matter} of {codes.shape[1]} (exchanging one costs 0.05 dB or more)"
    show(result, rows | encoded.named(), as_json)


@app.command(epilog=CODEBOOK_EXAMPLES)
def codebook(
    tokenizer: options.TokenizerRun = None,
    data: options.Data = "openmoji",
    split: options.Split = "all",
    n: Count = 10_000,
    refine: options.Refine = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for a plot.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure how the codebook is used, over all positions and position by position."""
    from svq.evaluation.codebook import codebook_use
    from svq.evaluation.plots import plot_codebook

    check_folder(out)
    check_apart(out, data)
    encoded = _encode(tokenizer, data, split, n, refine)
    size = encoded.tokenizer.quantizer.codebook_size
    use = codebook_use(encoded.codes, size, encoded.labels)
    result = {**use._asdict(), "codebook_size": size, **encoded.receipt}
    if out:
        plot_codebook(out / "codebook.png", use, size)
        write_json(out / "codebook.json", result)
    rows = {
        "codes in use": f"{use.used:.1%} of {size:,}",
        "perplexity": f"{use.perplexity:.0f}",
        "bits by position": f"{min(use.entropy):.1f} to {max(use.entropy):.1f} of {math.log2(size):.1f}",
    }
    if use.information:
        first, rest = use.information[0], use.information[1:]
        rows["bits about the class"] = f"{first:.2f} at position 1, {sum(rest) / len(rest):.2f} on average after it"
    show(result, rows | encoded.named(), as_json)
