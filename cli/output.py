"""How a command shows its result: a table on a terminal, JSON for a script."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

SHOWN = 3  # names of skipped files


def show(result: Mapping[str, Any], rows: Mapping[str, str], as_json: bool) -> None:
    """Print a result on stdout: all of it as JSON, or some rows of it for a person."""
    if as_json:
        typer.echo(json.dumps(result, indent=1, default=str))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def say(text: str) -> None:
    """Print a line on stderr."""
    typer.echo(text, err=True)


def announce(images: Any) -> None:
    """Say what a set of pictures holds, and which files were skipped."""
    held_out = int(images.validation.sum())
    say(
        f"{images.name}: {len(images):,} pictures of {images.image_size} px "
        f"({len(images) - held_out:,} to train on, {held_out:,} held out), {len(images.classes)} classes"
    )
    if images.skipped:
        say(f"{len(images.skipped):,} files were skipped:")
        for line in images.skipped[:SHOWN]:
            say(f"  {line}")
        if len(images.skipped) > SHOWN:
            say(f"  and {len(images.skipped) - SHOWN:,} more; 'svq data info --json' names them all")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result beside what it describes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, default=str))
