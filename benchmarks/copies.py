"""Are new pictures copies of pictures of training?

    python -m benchmarks.copies --samples runs/quickstart/samples/images --tokenizer runs/quickstart/tokenizer

What a generator can copy is a sentence, so samples are compared with what the tokenizer paints from the codes of
pictures of training: a copied sentence is that picture exactly, a sentence copied but for late codes nearly so. Beside
them stand held-out pictures, painted from their codes: what is as near to a picture of training without having been
learnt from it.
"""

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.trials import nearest, parser
from svq.cli.output import write_json
from svq.data import open_images
from svq.evaluation.pictures import save_grid
from svq.evaluation.reconstruction import decode_all
from svq.pixels import to_float
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.tokenize import tokenize

LIMITS = (20, 25, 30, 40)  # in dB
SHOWN = 16  # pairs in the grid


def distribution(db: Tensor) -> dict[str, float]:
    """Return quantiles of the PSNR (N,) to the nearest picture, and the share of pictures at or above each limit."""
    quantiles = {f"quantile {q}": float(db.quantile(q)) for q in (0.1, 0.5, 0.9)}
    return quantiles | {f"{limit} dB or more": float((db >= limit).float().mean()) for limit in LIMITS}


@torch.no_grad()
def main() -> None:
    words = parser(__doc__, out="runs/copies")
    words.add_argument("--samples", default="runs/quickstart/samples/images", help="a folder of samples")
    words.add_argument("--tokenizer", type=Path, default=Path("runs/quickstart/tokenizer"), help="that painted them")
    arguments = words.parse_args()

    tokenizer = StyledTokenizer.from_pretrained(arguments.tokenizer)
    images = open_images(arguments.data, tokenizer.config.image_size)
    new = open_images(arguments.samples, tokenizer.config.image_size)
    samples = to_float(new.batch(new.indices("all")))
    painted = decode_all(tokenizer.decode, tokenize(tokenizer, images).rows())
    seen, held_out = (painted[torch.from_numpy(images.indices(split))] for split in ("train", "val"))

    db, closest = nearest(samples, seen)
    report = {
        "samples": {"count": len(samples), **distribution(db)},
        "held out": {"count": len(held_out), **distribution(nearest(held_out, seen)[0])},
        "data": {"pictures": images.fingerprint, "samples": new.fingerprint},
        "versions": versions(),
    }
    write_json(arguments.out / "copies.json", report)
    # From the nearest to the farthest: above a sample, below what it is nearest to.
    spread = db.argsort(descending=True)[torch.linspace(0, len(db) - 1, SHOWN).long()]
    save_grid(arguments.out / "copies.png", torch.cat([samples[spread], seen[closest[spread]]]), SHOWN)


if __name__ == "__main__":
    main()
