"""Synthetic captions by an image-to-text model."""

from pathlib import Path
from typing import Annotated

import typer

from svq.cli import options
from svq.cli.output import check_file, show

EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data caption photos/ --model Salesforce/blip-image-captioning-base --out photos.jsonl[/cyan]

[cyan]svq data caption photos/ --model models/blip --workers 4 --beams 3 --out photos.jsonl[/cyan]
"""


def caption(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder of images, or a list of them: CSV, TSV, JSONL, Parquet.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME|DIR", help="A captioning model: BLIP, GIT and their like.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The list that is written, JSON lines.")],
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pictures that a process sees at a time.")
    ] = 16,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; CUDA devices are taken in turn.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Length of a caption, at most.")] = 40,
    beams: Annotated[int, typer.Option("--beams", min=1, help="Width of the beam search.")] = 1,
    root: options.Root = None,
    column: options.Column = None,
    as_json: options.Json = False,
) -> None:
    """Write a caption for each picture: a list for `svq data pack`. Run again, it goes on where it stopped."""
    from svq.data.captioner import CaptionSettings
    from svq.data.captioning import write_captions
    from svq.data.sources import list_pictures
    from svq.training.log import bar

    check_file(out, ".jsonl")
    pictures = list_pictures(source, root=root, columns=options.columns(column))
    with bar("caption", total=None) as advance:
        result = write_captions(pictures, out, CaptionSettings(model, max_tokens, beams), batch_size, workers, advance)
    show(
        {"out": out, **result._asdict()},
        {
            "captioned": f"{result.pictures - result.unreadable:,} pictures",
            "unreadable": f"{result.unreadable:,}",
            "file": str(out),
        },
        as_json,
    )
