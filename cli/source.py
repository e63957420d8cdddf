"""Open a source of pictures for a command: with progress, and a word about what it holds."""

from typing import TYPE_CHECKING

from svq.cli.output import say

if TYPE_CHECKING:
    from svq.data import ImageSet

SHOWN = 3  # names of skipped files


def open_source(source: str, size: int) -> "ImageSet":
    """Open a source at `size` pixels, and say how many pictures it holds and which files were skipped."""
    from svq.data import open_images
    from svq.training.log import bar

    with bar(f"read {source}", total=None) as advance:
        images = open_images(source, size, advance)
    held_out = int(images.validation.sum())
    say(
        f"{source}: {len(images):,} pictures of {size} px "
        f"({len(images) - held_out:,} to train on, {held_out:,} held out), {len(images.classes)} classes"
    )
    if images.skipped:
        say(f"{len(images.skipped):,} files were skipped:")
        for line in images.skipped[:SHOWN]:
            say(f"  {line}")
        if len(images.skipped) > SHOWN:
            say(f"  and {len(images.skipped) - SHOWN:,} more; 'svq data info --json' names them all")
    return images
