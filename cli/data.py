"""Data sets: prepare, pack, verify, look at."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from svq.cli import caption, fetch, options
from svq.cli.output import check_apart, check_file, show
from svq.cli.source import open_packed, open_source

app = typer.Typer(help="Data sets: import, info, pack, verify, caption, fetch.", no_args_is_help=True)
app.command(epilog=caption.EXAMPLES)(caption.caption)
app.command(epilog=fetch.EXAMPLES)(fetch.fetch)

PACKABLE = f"{options.SOURCE[:-1]}; or a CSV, TSV, JSONL or Parquet file of image paths and captions."
Source = Annotated[str, typer.Argument(metavar="SOURCE", help=options.SOURCE)]
Size = Annotated[int, typer.Option("--image-size", min=8, max=4096, help="Side of the pictures in pixels.")]
PACK_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data pack photos/ --resize 256 --encode jpeg --out photos.rec[/cyan]

[cyan]svq data pack yfcc15m.tsv --root images/ --layout captions --resize 256 --workers 16 --out yfcc15m.rec[/cyan]
"""
INFO_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data info photos/ --image-size 64 --sheet sheet.png[/cyan]
"""
MOST_CLASSES = 20  # to list for a person
VERIFY_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data verify photos.rec[/cyan]
"""
IMPORT_EXAMPLES = """
[bold]Examples[/bold]

[cyan]svq data import idx:/usr/share/datasets/fashion-mnist --image-size 32[/cyan]
"""


@app.command("import", epilog=IMPORT_EXAMPLES)
def import_(source: Source = "openmoji", image_size: Size = 32, as_json: options.Json = False) -> None:
    """Read a source once, at one size, so that later commands find it prepared."""
    from svq.data.info import describe_images

    _show_description(describe_images(open_source(source, image_size)), as_json)


@app.command(epilog=INFO_EXAMPLES)
def info(
    source: Source = "openmoji",
    image_size: Size = 32,
    sheet: Annotated[Path | None, typer.Option("--sheet", metavar="FILE", help="Write a contact sheet (PNG).")] = None,
    as_json: options.Json = False,
) -> None:
    """Say what a source holds: counts, classes, captions, and what could not be read."""
    from svq.data.info import contact_sheet, describe_images, describe_packed
    from svq.data.sources import PACKED
    from svq.evaluation.pictures import save_grid
    from svq.pixels import to_float

    check_file(sheet, ".png")
    check_apart(sheet, source)
    if Path(source).suffix in PACKED:
        packed = open_packed(Path(source).expanduser())
        result = describe_packed(packed)
        pictures = contact_sheet(packed, 64, image_size) if sheet else None
    else:
        images = open_source(source, image_size)
        result = describe_images(images)
        pictures = images.batch(images.sample("all", 64))
    if sheet and pictures is not None:
        save_grid(sheet, to_float(pictures))
    _show_description(result, as_json)


@app.command(epilog=PACK_EXAMPLES)
def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=PACKABLE)] = "openmoji",
    out: Annotated[
        Path, typer.Option("--out", metavar="NAME.rec", help="Name of the set: its index is NAME.json.")
    ] = Path("data.rec"),
    layout: Annotated[
        Literal["class", "captions", "class+captions"],
        typer.Option("--layout", help="What the labels of a record hold; captions as 77 CLIP ids each."),
    ] = "class",
    encode: Annotated[
        Literal["keep", "png", "jpeg"], typer.Option("--encode", help="Keep the files' bytes, or encode anew.")
    ] = "keep",
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Quality of JPEG.")] = 95,
    resize: Annotated[
        int | None, typer.Option("--resize", min=8, help="Scale larger pictures to this shorter side in pixels.")
    ] = None,
    shard_size: Annotated[
        int, typer.Option("--shard-size", parser=options.count, metavar="COUNT", help="Records of a shard.")
    ] = 100_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the order.")] = 0,
    root: options.Root = None,
    column: options.Column = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that read and encode.")] = 1,
    max_broken: Annotated[
        str, typer.Option("--max-broken", metavar="SHARE", help="Broken pictures to bear: a share or a number.")
    ] = "1%",
    writer: Annotated[Literal["svq", "mxnet"], typer.Option("--writer", help="Whose RecordIO code.")] = "svq",
    as_json: options.Json = False,
) -> None:
    """Write a source as RecordIO: shuffled shards by split, their texts, and an index. Run it again to go on."""
    from svq.data.packing import PackSettings
    from svq.data.packing import pack as write_packed
    from svq.data.sources import DRAWN_SIZE, list_pictures
    from svq.training.log import bar

    check_file(out, ".rec")
    columns = options.columns(column)
    packed = write_packed(
        list_pictures(source, resize or DRAWN_SIZE, root, columns),
        out,
        source,
        PackSettings(
            layout=layout,
            encode=encode,
            quality=quality,
            resize=resize,
            shard_size=shard_size,
            seed=seed,
            writer=writer,
        ),
        workers=workers,
        max_broken=max_broken,
        progress=lambda total: bar("pack", total),
    )
    assert packed.index is not None
    shards = packed.shards("all")
    result: dict[str, Any] = {
        "out": packed.path,
        "count": packed.count("all"),
        "train": packed.count("train"),
        "validation": packed.count("val"),
        "skipped": packed.index.skipped,
        "shards": len(shards),
        "bytes": packed.bytes,
        "fingerprint": packed.fingerprint,
    }
    rows = {
        "packed": f"{result['count']:,} pictures ({result['train']:,} train, {result['validation']:,} held out), "
        f"{result['bytes'] / 2**20:.1f} MiB in {len(shards)} shards",
        "skipped": f"{result['skipped']:,}",
        "index": str(packed.path),
    }
    show(result, rows, as_json)


@app.command(epilog=VERIFY_EXAMPLES)
def verify(
    path: Annotated[Path, typer.Argument(metavar="SET", help="A packed set: its index, or a .rec file.")],
    as_json: options.Json = False,
) -> None:
    """Check a packed set: structure, checksums, offsets, texts, and that every picture decodes."""
    from svq.data.packed import open_index
    from svq.data.verify import verify_packed
    from svq.training.log import bar

    packed = open_index(path)
    with bar("verify", packed.bytes, unit="bytes") as advance:
        found = verify_packed(packed, advance)
    problems = found.problems
    show(found._asdict(), {"records": f"{found.records:,}", "problems": "\n".join(problems[:10]) or "none"}, as_json)
    if problems:
        raise typer.Exit(2)


def _show_description(result: dict[str, Any], as_json: bool) -> None:
    """Show what `svq.data.info` says of a source."""
    captions = {name: result[name] for name in ("captions", "synthetic_captions") if name in result}
    rows = {
        "pictures": f"{result['count']:,} ({result['train']:,} train, {result['validation']:,} held out)",
        **{
            name.replace("_", " "): f"{c['count']:,}, {c['words']} words on average, {c['most_words']} at most"
            for name, c in captions.items()
        },
        "skipped": f"{len(result['skipped']):,}",
        "fingerprint": result["fingerprint"][:16],
    }
    if "bytes" in result:
        rows["records"] = f"{result['bytes'] / 2**20:,.1f} MiB in {result['shards']} shards, labels: {result['layout']}"
        rows["formats"] = ", ".join(f"{name} {count}" for name, count in result["formats"].items())
        rows["shorter side"] = " / ".join(f"{side:.0f}" for side in result["shorter_side"]) + " px (least/median/most)"
    ordered = sorted(result["classes"].items(), key=lambda pair: -pair[1])
    rows |= {f"class {name}": f"{count:,}" for name, count in ordered[:MOST_CLASSES]}
    if len(ordered) > MOST_CLASSES:
        rows["and"] = f"{len(ordered) - MOST_CLASSES:,} more classes; --json names all"
    show(result, rows, as_json)
