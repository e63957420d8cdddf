"""The options that several commands share, so that each means the same everywhere."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import typer

SOURCE = "A folder of images, 'openmoji', 'idx:DIR' (files named as Fashion-MNIST's), or a packed .rec file."


MOST_DIGITS = 18


def count(text: str | int) -> int:
    """Read 200k, 1.5M or 3000."""
    scale = {"k": 10**3, "m": 10**6}.get(str(text)[-1:].lower(), 1)
    try:
        number = Decimal(str(text)[:-1] if scale > 1 else str(text)) * scale  # exact: 4.1M is a whole number
    except ArithmeticError:  # no number, or one beyond all bounds
        number = Decimal(0)
    if not number.is_finite() or number < 1 or number.adjusted() > MOST_DIGITS or number != int(number):
        raise typer.BadParameter(f"expected a whole number above 0 such as 3000, 200k or 1.5M, got '{text}'")
    return int(number)


Data = Annotated[str, typer.Option("--data", help=SOURCE, show_default=True)]
Preset = Annotated[str, typer.Option("--preset", help="nano (32 px), tiny (64), small (128), base or seed (256).")]
GeneratorPreset = Annotated[
    str, typer.Option("--preset", help="nano, tiny, small, base or seed: what goes with the tokenizer's of that name.")
]
Images = Annotated[
    int | None,
    typer.Option("--images", parser=count, metavar="COUNT", help="Images to see, with repeats: 200k, 1.5M."),
]


def batch_size(text: str | int) -> int | str:
    """Read a whole number above 0, or auto."""
    if text == "auto":
        return "auto"
    if not str(text).isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"expected a whole number above 0, or auto, got '{text}'")
    return int(text)


BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        parser=batch_size,
        metavar="COUNT",
        help="Images in a step; auto keeps the preset's and finds by trial how many fit at a time.",
    ),
]
Loader = Annotated[
    Literal["auto", "dali", "torch"],
    typer.Option("--loader", help="What reads a packed set; auto: prepared once if small."),
]
Processes = Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine, one for each GPU.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Take two steps, say what a run would need, write no run.")]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Go on with a run although its settings or data have changed.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of all randomness.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML with any part of the configuration.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, such as train.optimizer.learning_rate=1e-3."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout; all else goes to stderr.")]
TokenizerRun = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        help="A run, a checkpoint or an exported folder; or openmoji-32 or openmoji-64, which come with svq.",
        show_default="the last run, else openmoji-32",
    ),
]
Refine = Annotated[
    int,
    typer.Option(
        "--refine",
        min=0,
        metavar="N",
        help="Compare each code with N others, such as 4, by what they paint; better, and slow.",
    ),
]
GeneratorRun = Annotated[
    Path | None,
    typer.Option("--generator", metavar="DIR", help="A run or checkpoint of a generator.", show_default="the last run"),
]
InceptionWeights = Annotated[Path | None, typer.Option("--weights", metavar="PATH", help="File of Inception weights.")]
Split = Annotated[Literal["train", "val", "all"], typer.Option("--split", help="Which pictures.")]
Root = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="Where a list's paths begin; by default beside it.")
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="KIND=NAME",
        help="A list's column, such as caption=title. Kinds: image, url, caption, synthetic, class, split, key.",
    ),
]


def columns(texts: list[str] | None) -> dict[str, str]:
    """Read KIND=NAME, several times."""
    pairs = [text.partition("=") for text in texts or []]
    for kind, equals, name in pairs:
        if not name:
            raise typer.BadParameter(f"expected --column KIND=NAME such as caption=title, got '{kind}{equals}'")
    return {kind: name for kind, _, name in pairs}
