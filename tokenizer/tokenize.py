"""From pictures to the file of codes."""

import numpy as np
from numpy.typing import NDArray

from svq.data.codes import Codes, code_type
from svq.data.imageset import Advance, ImageSet, nothing
from svq.errors import DataError
from svq.pixels import to_float
from svq.tokenizer.model import StyledTokenizer
from svq.tokenizer.refine import SEARCH_BATCH
from svq.training.checkpoint import fingerprint
from svq.training.device import choose_device


def tokenize(
    tokenizer: StyledTokenizer,
    images: ImageSet,
    chosen: NDArray[np.int64] | None = None,
    batch_size: int = 128,
    refine: int = 0,
    advance: Advance = nothing,
) -> Codes:
    """Write a set of pictures as codes.

    Args:
        tokenizer: a trained tokenizer; it is moved to the best device.
        images: pictures of the tokenizer's size.
        chosen: positions of those to write; None writes all.
        batch_size: pictures at a time.
        refine: compare each code with so many others, by what they paint.
        advance: called with the number of pictures done since the last call.

    Raises:
        DataError: none is chosen.
        CheckpointError: the tokenizer has no codebook.
    """
    chosen = images.indices("all") if chosen is None else chosen
    if not len(chosen):
        raise DataError(f"{images.name} has no such pictures; give another --split")
    batch_size = min(batch_size, SEARCH_BATCH) if refine else batch_size
    mark = fingerprint(tokenizer)
    device = choose_device()
    tokenizer.to(device)
    parts = []
    for start in range(0, len(chosen), batch_size):
        batch = images.batch(chosen[start : start + batch_size])
        codes = tokenizer.encode(to_float(batch.to(device)), refine).cpu().numpy()
        parts.append(codes.astype(code_type(tokenizer.quantizer.codebook_size)))
        advance(len(batch))
    return Codes(
        codes=np.concatenate(parts),
        labels=images.labels[chosen],
        validation=images.validation[chosen],
        captions=tuple(images.captions[i] for i in chosen),
        classes=images.classes,
        codebook_size=tokenizer.quantizer.codebook_size,
        tokenizer=mark,
        data=images.fingerprint,
        source=images.name,
        refine=refine,
    )
