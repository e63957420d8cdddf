"""Grids of pictures, as PNG files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from svq.evaluation.reconstruction import Decode
from svq.files import new_file

PADDING = 2
PREFIXES = (1, 4, 12)  # numbers of codes that show a picture growing, before all of them
SMALLEST = 64  # pictures are enlarged, pixel by pixel, to at least this side


def _to_pil(images: Tensor, columns: int) -> Image.Image:
    scale = max(1, -(-SMALLEST // images.shape[-1]))
    images = images.detach().cpu().float().clamp(-1, 1).add(1).div(2)
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    grid = make_grid(images, nrow=columns, padding=PADDING, pad_value=0.85)
    return Image.fromarray(grid.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def save_grid(path: Path, images: Tensor, columns: int = 8) -> None:
    """Write pictures (N, 3, S, S) in [-1, 1] as one grid."""
    with new_file(path) as work:
        _to_pil(images, columns).save(work)


def prefix_name(k: int) -> str:
    """Return how a row of pictures from k codes is called."""
    return "1 code" if k == 1 else f"{k} codes"


def save_prefixes(
    path: Path, decode: Decode, codes: Tensor, images: Tensor, lengths: Iterable[int], most: int = 12
) -> None:
    """Draw originals above what is painted from their first k codes, for each k in `lengths`."""
    lengths = [k for k in lengths if k < codes.shape[1]] + [codes.shape[1]]
    rows = {prefix_name(k): decode(codes[:most, :k]).cpu() for k in lengths}
    save_rows(path, {"original": images[:most], **rows})


def save_rows(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Write one row of pictures (N, 3, S, S) in [-1, 1] for each name, with the names to the left."""
    strips = [_to_pil(images, len(images)) for images in rows.values()]
    font = ImageFont.load_default(size=14)
    margin = 8 + max(int(font.getlength(name)) for name in rows) + 8
    page = Image.new("RGB", (margin + strips[0].width, sum(s.height for s in strips)), "white")
    draw, top = ImageDraw.Draw(page), 0
    for name, strip in zip(rows, strips, strict=True):
        page.paste(strip, (margin, top))
        draw.text((8, top + strip.height / 2), name, fill="black", font=font, anchor="lm")
        top += strip.height
    with new_file(path) as work:
        page.save(work)
