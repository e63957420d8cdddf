"""How a command shows its result: a table on a terminal, JSON for a script."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from svq.errors import UserError
from svq.files import write_text


def first_process() -> bool:
    """Say whether this is the first of the processes of a run, which speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def show(result: Mapping[str, Any], rows: Mapping[str, str | Text], as_json: bool) -> None:
    """Print a result on stdout: all of it as JSON, or some rows of it for a person."""
    if not first_process():
        return
    if as_json:
        typer.echo(json.dumps(result, indent=1, default=str))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")  # a path is to be read to its end
    for name, value in rows.items():
        table.add_row(escape(name), value if isinstance(value, Text) else escape(value))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # a log has no edge to fold at
    console.print(table)


def say(text: str) -> None:
    """Print a line on stderr; of several processes of one run, the first one does."""
    if first_process():
        typer.echo(text, err=True)


def check_file(path: Path | None, ending: str = "") -> None:
    """Refuse a path at which no file can be written, before any work is done.

    Raises:
        UserError: it is a folder, lies below a file or where nothing may be written, or has another ending.
    """
    if path is None:
        return
    if path.is_dir() or path.name == "" or any(p.exists() and not p.is_dir() for p in path.parents):
        raise UserError(f"'{path}' cannot be a file: give the name of a file in a folder")
    if ending and path.suffix != ending:
        raise UserError(f"'{path}' must end in {ending}")
    _check_permission(path)


def check_folder(path: Path | None) -> None:
    """Refuse a path at which no folder can be made, before any work is done.

    Raises:
        UserError: it is a file, lies below one or where nothing may be written, or is the current folder.
    """
    if path is None:
        return
    if path.name == "" or any(p.exists() and not p.is_dir() for p in (path, *path.parents)):
        raise UserError(f"'{path}' cannot be a folder of its own; give another --out")
    _check_permission(path)


def check_apart(path: Path | None, source: str) -> None:
    """Refuse a place in the folder of the pictures: what is written there would be among them the next time.

    Raises:
        UserError: it is one.
    """
    pictures = Path(source).expanduser()
    if path is not None and pictures.is_dir() and path.resolve().is_relative_to(pictures.resolve()):
        raise UserError(f"'{path}' lies in '{source}', and would be among its pictures next time; give another place")


def _check_permission(path: Path) -> None:
    """Refuse a path in a folder, or of one, that this user may not write to."""
    folder = next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"'{path}' cannot be written: no permission in {folder}; give another --out")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result beside what it describes."""
    write_text(path, json.dumps(content, indent=1, default=str))
