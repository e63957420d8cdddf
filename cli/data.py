"""Data sets: prepare, pack, verify, look at."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from svq.cli import options
from svq.cli.output import check_file, show
from svq.cli.source import open_source

app = typer.Typer(help="Data sets: import, pack, verify, info.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help=options.SOURCE)]
Size = Annotated[int, typer.Option("--image-size", min=8, max=4096, help="Side of the pictures in pixels.")]
PACK_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data pack photos/ --image-size 256 --out photos.rec[/cyan]
"""
INFO_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data info photos/ --image-size 64 --sheet sheet.png[/cyan]
"""
VERIFY_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data verify photos.rec[/cyan]
"""
IMPORT_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data import idx:/usr/share/dataset-fashion-mnist --image-size 32[/cyan]
"""


@app.command("import", epilog=IMPORT_EXAMPLES)
def import_(source: Source = "openmoji", image_size: Size = 32, as_json: options.Json = False) -> None:
    """Read a source once, at one size, so that later commands find it prepared."""
    info(source, image_size, None, as_json)


@app.command(epilog=INFO_EXAMPLES)
def info(
    source: Source = "openmoji",
    image_size: Size = 32,
    sheet: Annotated[Path | None, typer.Option("--sheet", metavar="FILE", help="Write a contact sheet (PNG).")] = None,
    as_json: options.Json = False,
) -> None:
    """Say what a source holds: counts, classes, captions, and what could not be read."""
    from svq.data.imageset import to_float
    from svq.evaluation.pictures import save_grid

    check_file(sheet, ".png")
    images = open_source(source, image_size)
    if sheet:
        save_grid(sheet, to_float(images.batch(images.sample("all", 64))))
    counts = Counter(int(label) for label in images.labels)
    result = {
        "source": source,
        "image_size": image_size,
        "count": len(images),
        "train": len(images.indices("train")),
        "validation": len(images.indices("val")),
        "classes": {name: counts[i] for i, name in enumerate(images.classes)},
        "captions": sum(bool(caption) for caption in images.captions),
        "skipped": images.skipped,
        "fingerprint": images.fingerprint,
    }
    rows = {
        "pictures": f"{len(images):,} ({result['train']:,} train, {result['validation']:,} held out)",
        "captions": f"{result['captions']:,}",
        "skipped": f"{len(images.skipped):,}",
        "fingerprint": images.fingerprint[:16],
        **{f"class {images.classes[i]}": f"{count:,}" for i, count in counts.most_common(20) if i >= 0},
    }
    show(result, rows, as_json)


@app.command(epilog=PACK_EXAMPLES)
def pack(
    source: Source = "openmoji",
    image_size: Size = 32,
    out: Annotated[Path, typer.Option("--out", help="The .rec file; .idx and .json are written beside it.")] = Path(
        "data.rec"
    ),
    as_json: options.Json = False,
) -> None:
    """Write a source as RecordIO: one .rec file with its offsets and its index."""
    from svq.data.packed import pack as write_packed
    from svq.training.log import bar

    check_file(out, ".rec")
    images = open_source(source, image_size)
    with bar("pack", len(images)) as advance:
        write_packed(images, out, advance)
    result = {
        "out": out,
        "count": len(images),
        "bytes": out.stat().st_size,
        "fingerprint": images.fingerprint,
    }
    show(
        result,
        {"packed": f"{len(images):,} pictures, {out.stat().st_size / 2**20:.1f} MiB", "file": str(out)},
        as_json,
    )


@app.command(epilog=VERIFY_EXAMPLES)
def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE.rec", help="A packed file.")],
    as_json: options.Json = False,
) -> None:
    """Check a packed file: structure, checksums, offsets, and that every picture decodes."""
    from svq.data.packed import verify_packed
    from svq.errors import DataError
    from svq.training.log import bar

    if not path.is_file():
        raise DataError(f"no such file: {path}")
    with bar("verify", path.stat().st_size, unit="bytes") as advance:
        result = verify_packed(path, advance)
    problems = result["problems"]
    show(result, {"records": f"{result['records']:,}", "problems": "\n".join(problems[:10]) or "none"}, as_json)
    if problems:
        raise typer.Exit(2)
