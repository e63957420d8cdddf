"""Stage one: train a tokenizer, and write pictures as codes."""

from pathlib import Path
from typing import Annotated

import typer

from svq.cli import options
from svq.cli.last import last, remember, remembered
from svq.cli.output import check_apart, check_file, check_folder, say, show
from svq.cli.source import open_pictures, open_source, say_skipped, streams_by_itself

app = typer.Typer(help="Stage one: the tokenizer.", no_args_is_help=True)

TRAIN_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq tokenizer train[/cyan] — OpenMoji, preset nano

[cyan]svq tokenizer train --data photos/ --preset tiny --images 500k --out runs/photos[/cyan]

[cyan]svq tokenizer train --set model.quantizer.kind=vq --set train.continuous_share=0.3[/cyan]

[cyan]svq tokenizer train --preset seed --data pictures.rec --nproc 8 --batch-size auto --dry-run[/cyan]
"""
EXPORT_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq tokenizer export --out my-tokenizer[/cyan]
"""
TOKENIZE_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq tokenize[/cyan] — OpenMoji, by the last tokenizer

[cyan]svq tokenize --tokenizer runs/photos --data photos/ --out photos.safetensors[/cyan]

[cyan]svq tokenize --tokenizer runs/photos --data pictures.rec --stream --out codes.safetensors[/cyan]

[cyan]svq tokenize --refine 4[/cyan] — better codes by a search, much slower
"""

PAINT_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq paint --codes photos.safetensors --tokenizer runs/photos --first 12 --out rough[/cyan]
"""


@app.command(epilog=TRAIN_EXAMPLES)
def train(
    data: options.Data = "openmoji",
    preset: options.Preset = "nano",
    images: options.Images = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/tokenizer"),
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
    loader: options.Loader = "auto",
    nproc: options.Processes = 1,
    dry_run: options.DryRun = False,
    accept_changes: options.AcceptChanges = False,
    as_json: options.Json = False,
) -> None:
    """Train a tokenizer. The same command run again goes on where it stopped.

    A first SIGTERM or Ctrl-C saves and leaves with exit code 75; the same command then goes on.
    """
    from svq.cli.training import batch_options, in_processes, show_dry
    from svq.tokenizer.presets import PRESETS
    from svq.tokenizer.task import TokenizerTask
    from svq.training.runs import train_run
    from svq.training.settings import preset_named, resolve

    check_folder(out)
    check_apart(out, data)
    named = {"train.images": images, "train.seed": seed, **batch_options(batch_size)}
    settings = resolve(preset_named(PRESETS, preset), config, assignments or [], named)
    if in_processes(nproc):
        return

    def build() -> TokenizerTask:
        return TokenizerTask(settings.model, settings.train, open_pictures(data, settings.model.image_size, loader))

    if dry_run:
        show_dry(build, settings.train, as_json)
        return
    with remembered(out, tokenizer=out):
        result = train_run("tokenizer", build, settings.train, out, accept_changes)
    quality = {k.removeprefix("psnr_"): v for k, v in result["metrics"].items() if k.startswith("psnr_")}
    metrics = {f"PSNR, first {k}": f"{value:.2f} dB" for k, value in quality.items()}
    show(result, {**metrics, "run": str(out), "next": "svq tokenize"}, as_json)


@app.command(epilog=EXPORT_EXAMPLES)
def export(
    tokenizer: options.TokenizerRun = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("runs/tokenizer-export"),
    half: Annotated[
        bool, typer.Option("--half/--full", help="Weights as float16, or as they are, as its generators need.")
    ] = True,
    xz: Annotated[bool, typer.Option("--xz", help="Pack the weights: a seventh smaller.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a trained tokenizer as a small folder to give away, without training state."""
    from svq.errors import UserError
    from svq.tokenizer.export import export as write_export
    from svq.training.checkpoint import fingerprint

    check_folder(out)
    if out.exists():
        raise UserError(f"{out} exists already; give another --out")
    model = write_export(last("tokenizer", tokenizer), out, half, xz)
    size = sum(p.stat().st_size for p in out.iterdir())
    result = {"out": out, "bytes": size, "fingerprint": fingerprint(model)}
    if half:
        say("note: rounded weights are another tokenizer; for codes and generators made with this one, export --full")
    show(result, {"folder": str(out), "size": f"{size / 2**20:.1f} MiB"}, as_json)


def tokenize(
    tokenizer: options.TokenizerRun = None,
    data: options.Data = "openmoji",
    split: options.Split = "all",
    refine: options.Refine = 0,
    out: Annotated[Path, typer.Option("--out", help="File of codes to write.")] = Path("runs/codes.safetensors"),
    stream: Annotated[
        bool, typer.Option("--stream", help="Read files while others are encoded, and prepare no set; of lists, too.")
    ] = False,
    root: options.Root = None,
    column: options.Column = None,
    as_json: options.Json = False,
) -> None:
    """Write pictures as codes: one safetensors file that stage two reads."""
    from svq.data.codes import holds_codes
    from svq.data.sources import list_pictures
    from svq.errors import UserError
    from svq.tokenizer import StyledTokenizer
    from svq.tokenizer.streaming import tokenize_stream
    from svq.tokenizer.tokenize import tokenize as write_codes
    from svq.training.log import bar

    check_file(out, ".safetensors")
    if out.exists() and not holds_codes(out):
        raise UserError(f"{out} exists and holds no codes; give another --out")
    path = last("tokenizer", tokenizer)
    model = StyledTokenizer.from_pretrained(path)
    skipped: tuple[str, ...] | list[str]
    if stream or streams_by_itself(data, model.config.image_size):
        entries = list_pictures(data, model.config.image_size, root, options.columns(column))
        with bar("tokenize", None) as advance:
            codes, skipped = tokenize_stream(model, entries, data, split, refine=refine, advance=advance)
        say_skipped(skipped, named_by="svq tokenize --stream --json")  # of a list, 'data info' knows nothing
    elif root or column:
        raise UserError("--root and --column are for lists, which are streamed; give --stream, too")
    else:
        pictures = open_source(data, model.config.image_size)
        chosen, skipped = pictures.indices(split), pictures.skipped
        with bar("tokenize", len(chosen)) as advance:
            codes = write_codes(model, pictures, chosen, refine=refine, advance=advance)
    codes.save(out)
    remember(codes=out, tokenizer=path)
    result = {
        "out": out,
        "count": len(codes),
        "skipped": skipped,
        "tokenizer": codes.tokenizer,
        "data": codes.data,
        "split": split,
        "refine": refine,
    }
    show(
        result,
        {
            "codes": f"{len(codes):,} x {codes.codes.shape[1]}",
            "tokenizer": str(path),
            "file": str(out),
            "next": "svq generator train",
        },
        as_json,
    )


def paint(
    codes: Annotated[
        Path | None, typer.Option("--codes", metavar="FILE", help="A file of codes.", show_default="the last one")
    ] = None,
    tokenizer: options.TokenizerRun = None,
    first: Annotated[
        int | None, typer.Option("--first", min=1, help="Only the first K codes of each.", show_default="all")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("runs/painted"),
    as_json: options.Json = False,
) -> None:
    """Paint a file of codes: numbered PNG files, a grid, and a record of where they came from."""
    from svq.data.codes import load_codes
    from svq.tokenizer import StyledTokenizer
    from svq.tokenizer.painting import paint_codes
    from svq.training.log import bar

    check_folder(out)
    sentences = load_codes(last("codes", codes))
    model = StyledTokenizer.from_pretrained(last("tokenizer", tokenizer))
    with bar("paint", len(sentences)) as advance:
        record = paint_codes(model, sentences, out, first, advance=advance)
    show({"out": out, **record}, {"pictures": f"{len(sentences):,} in {out / 'images'}"}, as_json)
