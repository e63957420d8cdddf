"""Pictures of a published list, from the network."""

from pathlib import Path
from typing import Annotated

import typer

from svq.cli import options
from svq.cli.output import check_folder, show

EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data fetch yfcc15m.csv --out yfcc15m --size 256 --processes 8[/cyan]

[cyan]svq data fetch list.jsonl --out photos --column url=photo_url --column caption=title[/cyan]
"""


def fetch(
    listed: Annotated[Path, typer.Argument(metavar="LIST", help="Addresses and captions: CSV, TSV, JSONL, Parquet.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the pictures and their list.")],
    size: Annotated[int, typer.Option("--size", min=8, help="Scale larger pictures to this shorter side.")] = 256,
    column: options.Column = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes that fetch.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each process.")] = 32,
    timeout: Annotated[int, typer.Option("--timeout", min=1, help="Seconds that a server may be silent.")] = 10,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Further tries of what did not come.")] = 1,
    as_json: options.Json = False,
) -> None:
    """Fetch the pictures of a list with img2dataset: a folder and a list for `svq data pack`. Run again to go on."""
    from svq.data.fetching import FetchSettings
    from svq.data.fetching import fetch as fetch_list
    from svq.training.log import bar

    check_folder(out)
    settings = FetchSettings(size, processes, threads, timeout, retries)
    with bar("fetch", total=None, unit="rows") as advance:
        result = fetch_list(listed, out, settings, options.columns(column), advance)
    failed = result.rows - result.pictures
    rows = {
        "pictures": f"{result.pictures:,} of {result.rows:,} rows",
        "list": str(out / "list.jsonl"),
        "failed": f"{failed:,}" + (f", see {out / 'failed.jsonl'}" if failed else ""),
        **{f"  {reason}": f"{count:,}" for reason, count in list(result.reasons.items())[:5]},
    }
    show({"out": out, **result._asdict()}, rows, as_json)
