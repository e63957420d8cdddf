"""From two checkpoints to a folder of new pictures (its layout: `svq.tokenizer.painting`).

``samples.json`` holds seed, sampling, fingerprints, configurations and versions: all that repeats them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svq.data.imageset import Advance, nothing
from svq.errors import CheckpointError, UserError, nearest
from svq.generator.config import SamplingConfig
from svq.generator.model import Generator
from svq.pixels import to_uint8
from svq.provenance import versions
from svq.tokenizer.model import StyledTokenizer
from svq.tokenizer.painting import new_folder, write_pictures
from svq.training.checkpoint import fingerprint
from svq.training.device import choose_device

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
    marks = {"tokenizer": fingerprint(tokenizer), "generator": fingerprint(generator)}
    if generator.config.tokenizer != marks["tokenizer"]:
        raise CheckpointError(
            "this generator was trained on the codes of another tokenizer; name theirs with --tokenizer"
        )
    label_of(generator, sampling.class_name)  # an unknown class is found before anything is written
    record = {
        "count": n,
        "seed": seed,
        "sampling": sampling.model_dump(mode="json"),
        "batch_size": batch_size,  # of which a GPU's choice of kernels may depend
        "device": choose_device().type,
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
    with new_folder(out) as work:
        pictures = (images for _, images in paint(generator, tokenizer, n, seed, sampling, batch_size))
        write_pictures(work, pictures, record, advance)
    return record
