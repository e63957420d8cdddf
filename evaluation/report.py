"""The report page: numbers, pictures, and how to repeat them."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from svq.files import write_text


class Section(NamedTuple):
    """A picture with a title and a text; `image` is a path relative to the page."""

    title: str
    text: str
    image: str
    plot: bool = False


def write_report(
    path: Path,
    title: str,
    subtitle: str,
    numbers: Mapping[str, str],
    sections: Sequence[Section],
    command: str,
    provenance: Mapping[str, str],
) -> None:
    """Write a page of HTML that needs nothing but the pictures beside it."""
    template = (files("svq.evaluation") / "report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True).from_string(template)
    text = page.render(
        title=title,
        subtitle=subtitle,
        numbers=numbers,
        sections=sections,
        command=command,
        provenance=provenance,
    )
    write_text(path, text)
