"""What this machine has, what will run fast on it, and what is broken."""

from typing import Annotated

import typer

from svq.cli import options
from svq.cli.output import show

EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq doctor --json[/cyan]
"""


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the measurements.")] = False,
    as_json: options.Json = False,
) -> None:
    """Look at this machine: packages, device, speed of fp32 and bf16, disk, weights."""
    from rich.text import Text

    from svq.cli.machine import examine

    checks = examine(measure=not quick)
    colour = {"ok": "green", "note": "yellow", "broken": "red"}
    show(
        {"checks": [check._asdict() for check in checks]},
        {check.name: Text.assemble((f"{check.state:<8}", colour[check.state]), check.text) for check in checks},
        as_json,
    )
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)
