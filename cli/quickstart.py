"""The whole chain in one command."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from svq.cli import options
from svq.cli.last import remember
from svq.cli.output import check_apart, check_folder, show
from svq.cli.source import open_source

EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq quickstart[/cyan]

[cyan]svq quickstart --data photos/ --out runs/photos[/cyan]
"""


def quickstart(
    data: options.Data = "openmoji",
    out: Annotated[Path, typer.Option("--out", help="Folder for everything.")] = Path("runs/quickstart"),
    images: options.Images = None,
    sequences: Annotated[
        int | None,
        typer.Option("--sequences", parser=options.count, metavar="COUNT", help="Sequences stage two sees."),
    ] = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
) -> None:
    """Real images, tokenizer, codes, GPT, samples, report: on a CPU, in minutes."""
    from svq.cli.chain import Chain
    from svq.generator.presets import PRESETS as GENERATORS
    from svq.tokenizer.presets import PRESETS as TOKENIZERS
    from svq.training.settings import resolve

    check_folder(out)
    check_apart(out, data)
    first = resolve(TOKENIZERS["nano"](), options={"train.images": images, "train.seed": seed})
    second = resolve(GENERATORS["nano"](), options={"train.images": sequences, "train.seed": seed})
    pictures = open_source(data, first.model.image_size)
    given = {"data": data, "images": images, "sequences": sequences, "seed": first.train.seed, "out": out}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    result = Chain(pictures, first, second, out, shlex.join(["svq", "quickstart", *words])).run()
    remember(
        tokenizer=out / "tokenizer",
        codes=out / "codes.safetensors",
        generator=out / "generator",
        painter=out / "tokenizer",
        samples=out / "samples",
    )
    rows = {
        **result["numbers"],
        f"minutes{' since the last start' if result['resumed'] else ''}": f"{result['seconds'] / 60:.1f}",
        "report": str(out / "report.html"),
    }
    show(result, rows, as_json)
