"""From two checkpoints to a folder of new pictures.

images/000000.png ...   one file for each picture, named by its number
grid.png                the first 64 of them
samples.json            seed, sampling, fingerprints, configurations and versions: all that repeats them
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from svq.data.imageset import Advance, nothing, to_float, to_uint8
from svq.data.sources import GENERATED
from svq.errors import CheckpointError, UserError, nearest
from svq.evaluation.pictures import save_grid
from svq.generator.config import SamplingConfig
from svq.generator.model import Generator
from svq.provenance import versions
from svq.tokenizer.model import StyledTokenizer
from svq.training.checkpoint import fingerprint, replace
from svq.training.device import choose_device

SHOWN = 64
# Fewer rows than about 16 go to other kernels, which sum in another order: a picture would depend on its batch, by
# 1/255 in a pixel here and there. Smaller batches are filled up. (Seen on a CPU; a GPU may choose by other sizes.)
SMALLEST_BATCH = 32


def paint(
    generator: Generator,
    tokenizer: StyledTokenizer,
    n: int,
    seed: int,
    sampling: SamplingConfig,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of codes (b, 36) int64 and pictures (b, 3, S, S) uint8, n in all; b is 32 or more, or the rest.

    Raises:
        UserError: the class is unknown.
    """
    label = label_of(generator, sampling.class_name)
    device = choose_device()
    generator.to(device), tokenizer.to(device)
    batch_size = max(batch_size, SMALLEST_BATCH)
    for first in range(0, n, batch_size):
        count = min(batch_size, n - first)
        rows = max(count, SMALLEST_BATCH)
        codes = generator.sample(
            rows,
            seed,
            labels=torch.full((rows,), label),
            first=first,
            **sampling.model_dump(exclude={"class_name"}),
        )
        yield codes[:count], to_uint8(tokenizer.decode(codes.to(device)))[:count].cpu()


def label_of(generator: Generator, name: str | None) -> int:
    """Return the label of a class, or -1 for None.

    Raises:
        UserError: there is no such class.
    """
    classes = generator.config.classes
    if name is None:
        return -1
    if name not in classes:
        known = nearest(name, classes) if classes else "; it was trained without classes"
        raise UserError(f"this generator knows no class '{name}'{known}")
    return classes.index(name)


def generate(
    generator: Generator,
    tokenizer: StyledTokenizer,
    out: Path,
    n: int,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
    batch_size: int = 64,
    advance: Advance = nothing,
) -> dict[str, Any]:
    """Write `n` pictures, a grid and a record into the folder `out`, which appears when it is complete.

    Returns:
        The record, as in ``samples.json``.

    Raises:
        UserError: `out` holds something that is not an earlier result of this function.
        CheckpointError: the generator and the tokenizer do not belong together.
    """
    sampling = sampling or SamplingConfig()
    if out.exists() and not {p.name for p in out.iterdir()} <= {"images", "grid.png", GENERATED}:
        raise UserError(f"{out} holds other files, which would be lost; give another --out")
    marks = {"tokenizer": fingerprint(tokenizer), "generator": fingerprint(generator)}
    if generator.config.tokenizer != marks["tokenizer"]:
        raise CheckpointError(
            "this generator was trained on the codes of another tokenizer; name theirs with --tokenizer"
        )
    label_of(generator, sampling.class_name)  # an unknown class is found before anything is written
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # its own, should two write at once
    try:
        work.chmod(0o755)
        (work / "images").mkdir()
        written, shown = 0, []
        for _, images in paint(generator, tokenizer, n, seed, sampling, batch_size):
            for image in images:
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(work / "images" / f"{written:06d}.png")
                written += 1
            shown.append(images[: max(0, SHOWN - written + len(images))])
            advance(len(images))
        save_grid(work / "grid.png", to_float(torch.cat(shown)))
        record = {
            "count": n,
            "seed": seed,
            "sampling": sampling.model_dump(mode="json"),
            "image_size": tokenizer.config.image_size,
            "tokenizer": {
                "fingerprint": marks["tokenizer"],
                "config": tokenizer.config.model_dump(mode="json"),
            },
            "generator": {
                "fingerprint": marks["generator"],
                "config": generator.config.model_dump(mode="json"),
            },
            "versions": versions(),
        }
        (work / GENERATED).write_text(json.dumps(record, indent=1))
        replace(out, work)
        return record
    finally:
        shutil.rmtree(work, ignore_errors=True)
