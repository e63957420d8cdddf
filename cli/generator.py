"""Stage two: train a generator on codes, and paint new pictures."""

from pathlib import Path
from typing import Annotated

import typer

from svq.cli import options
from svq.cli.last import last, last_painter, remember, remembered
from svq.cli.output import check_folder, show

app = typer.Typer(help="Stage two: the generator.", no_args_is_help=True)

TRAIN_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq generator train[/cyan] — the codes that svq tokenize wrote last

[cyan]svq generator train --codes photos.safetensors --tokenizer runs/photos --preset tiny --out runs/photos-gpt[/cyan]
"""
GENERATE_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq generate --n 1000[/cyan]

[cyan]svq generate --n 64 --class animal --guidance 2 --temperature 0.9 --seed 7 --out animals[/cyan]
"""


@app.command(epilog=TRAIN_EXAMPLES)
def train(
    codes: Annotated[
        Path | None, typer.Option("--codes", metavar="FILE", help="A file of codes.", show_default="the last one")
    ] = None,
    tokenizer: options.TokenizerRun = None,
    preset: options.GeneratorPreset = "nano",
    images: options.Images = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/generator"),
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
    nproc: options.Processes = 1,
    dry_run: options.DryRun = False,
    accept_changes: options.AcceptChanges = False,
    as_json: options.Json = False,
) -> None:
    """Train a generator on a file of codes. The same command run again goes on where it stopped.

    A first SIGTERM or Ctrl-C saves and leaves with exit code 75; the same command then goes on.
    """
    from svq.cli.training import batch_options, in_processes, show_dry
    from svq.data.codes import load_codes
    from svq.generator.presets import PRESETS
    from svq.generator.task import GeneratorTask
    from svq.tokenizer import StyledTokenizer
    from svq.training.runs import train_run
    from svq.training.settings import preset_named, resolve

    check_folder(out)
    named = {"train.images": images, "train.seed": seed, **batch_options(batch_size)}
    settings = resolve(preset_named(PRESETS, preset), config, assignments or [], named)
    if in_processes(nproc):
        return
    paths = {"codes": last("codes", codes), "tokenizer": last("tokenizer", tokenizer)}
    painter = StyledTokenizer.from_pretrained(paths["tokenizer"])

    def build() -> GeneratorTask:
        return GeneratorTask(settings.model, settings.train, load_codes(paths["codes"]), painter)

    if dry_run:
        show_dry(build, settings.train, as_json)
        return
    with remembered(out, generator=out, painter=paths["tokenizer"], **paths):
        result = train_run("generator", build, settings.train, out, accept_changes)
    nats = f"{result['metrics']['validation_nats']:.3f} nats per code"
    show(result, {"held out": nats, "run": str(out), "next": "svq generate --n 1000"}, as_json)


def generate(
    n: Annotated[int, typer.Option("--n", min=1, help="How many pictures.")] = 16,
    tokenizer: options.TokenizerRun = None,
    generator: options.GeneratorRun = None,
    class_name: Annotated[str | None, typer.Option("--class", metavar="NAME", help="Pictures of one class.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed; picture i depends on it and on i alone.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pictures at a time, 32 or more; changes hardly any.")
    ] = 64,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 takes the likeliest code.")] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Only the k likeliest codes.")] = None,
    top_p: Annotated[float, typer.Option("--top-p", help="Only the likeliest codes that together reach P.")] = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", help="Only codes of P times the likeliest one's share.")] = 0.0,
    guidance: Annotated[float, typer.Option("--guidance", help="Classifier-free guidance; needs --class.")] = 1.0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("runs/samples"),
    as_json: options.Json = False,
) -> None:
    """Paint new pictures: PNG files, a grid, and a record that repeats them."""
    from svq.generator import Generator
    from svq.generator.config import SamplingConfig
    from svq.generator.generate import generate as write_pictures
    from svq.tokenizer import StyledTokenizer
    from svq.training.log import bar
    from svq.training.settings import resolve

    check_folder(out)
    named = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "guidance": guidance}
    sampling = resolve(SamplingConfig(), options={**named, "class_name": class_name})
    writer = Generator.from_pretrained(last("generator", generator))
    painter = StyledTokenizer.from_pretrained(last_painter(tokenizer, generator))
    with bar("generate", n) as advance:
        record = write_pictures(writer, painter, out, n, seed, sampling, batch_size, advance)
    remember(samples=out)
    show(
        {"out": out, **record},
        {"pictures": f"{n:,} in {out / 'images'}", "grid": str(out / "grid.png")},
        as_json,
    )
