"""Can what is painted from codes be named?

    python -m benchmarks.naming --tokenizer openmoji-32
    python -m benchmarks.naming --tokenizer openmoji-32 --answers runs/naming/answers.txt

The first command draws a sheet of numbered held-out emoji, painted from their codes, one of each family of skin tones,
and writes the list of all held-out names. A reader who has seen neither the sheet of the originals, which lies beside
it, nor which were drawn, picks a name from the list for each number and writes lines such as ``7 waving hand``. The
second command counts which are right. What another reader makes of the originals says how many could be.
"""

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.trials import parser
from svq.cli.output import write_json
from svq.data import open_images
from svq.data.imageset import ImageSet
from svq.data.openmoji import family_of
from svq.files import new_file, write_text
from svq.pixels import to_uint8
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.tokenize import tokenize

COUNT, COLUMNS = 64, 8
SIDE, MARGIN = 128, 20  # of a picture on a sheet, and of the room for its number, in pixels


def candidates(images: ImageSet) -> list[int]:
    """Return the positions of held-out pictures with names, one of each family: without a skin tone, if it has that."""
    named = (i for i in images.indices("val").tolist() if images.captions[i])
    plainest_last = sorted(named, key=lambda i: len(images.keys[i]), reverse=True)
    return sorted({family_of(images.keys[i]): i for i in plainest_last}.values())


def save_sheet(path: Path, pictures: Tensor) -> None:
    """Draw pictures (N, 3, S, S) uint8, each below its number, from 1."""
    cell, rows = SIDE + MARGIN, -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell, rows * cell), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=MARGIN - 5)
    for n, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
        left, top = n % COLUMNS * cell, n // COLUMNS * cell
        draw.text((left + 4, top), str(n + 1), fill="black", font=font)
        sheet.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top + MARGIN))
    with new_file(path) as work:
        sheet.save(work)


def read_answers(text: str) -> dict[str, str]:
    """Return the name that was picked for each number."""
    lines = (line.partition(" ") for line in text.splitlines() if line.strip())
    return {number: name.strip() for number, _, name in lines}


@torch.no_grad()
def main() -> None:
    words = parser(__doc__, out="runs/naming")
    words.add_argument("--tokenizer", type=Path, default=Path("openmoji-32"))
    words.add_argument("--answers", type=Path, help="count which of these are right")
    arguments = words.parse_args()

    tokenizer = StyledTokenizer.from_pretrained(arguments.tokenizer)
    images = open_images(arguments.data, tokenizer.config.image_size)
    known = candidates(images)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(arguments.seeds[0]))
    chosen = torch.tensor(known)[order[:COUNT]].numpy()
    names = {str(n): images.captions[i] for n, i in enumerate(chosen, start=1)}

    if arguments.answers is None:
        painted = tokenizer.decode(tokenize(tokenizer, images, chosen).rows())
        save_sheet(arguments.out / "codes.png", to_uint8(painted).cpu())
        save_sheet(arguments.out / "originals.png", images.batch(chosen))
        write_text(
            arguments.out / "names.txt", "".join(f"{name}\n" for name in sorted(images.captions[i] for i in known))
        )
        return

    answers = read_answers(arguments.answers.read_text(encoding="utf-8"))
    missed = {n: {"is": name, "told": answers.get(n)} for n, name in names.items() if answers.get(n) != name}
    report = {"pictures": len(names), "names": len(known), "named": len(names) - len(missed)}
    print(json.dumps(report))
    more = {"missed": missed, "data": images.fingerprint, "versions": versions()}
    write_json(arguments.answers.with_suffix(".json"), report | more)


if __name__ == "__main__":
    main()
