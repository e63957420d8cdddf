"""Pictures to codes, file by file, as a stream.

What is special: reading and decoding overlap with the model at work, and no more than a few batches are held.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from svq.data.codes import Codes, code_type
from svq.data.entries import Entry
from svq.data.imageset import Advance, nothing, sorted_classes, to_float
from svq.data.stream import Streamed, stream
from svq.errors import DataError
from svq.tokenizer.model import StyledTokenizer
from svq.tokenizer.refine import SEARCH_BATCH
from svq.training.checkpoint import fingerprint
from svq.training.device import choose_device

BATCH = 128


def tokenize_stream(
    tokenizer: StyledTokenizer,
    entries: Iterable[Entry],
    source: str,
    split: Literal["train", "val", "all"] = "all",
    batch_size: int = BATCH,
    workers: int | None = None,
    refine: int = 0,
    advance: Advance = nothing,
) -> tuple[Codes, list[str]]:
    """Write the pictures of entries as codes, without preparing a data set first.

    Args:
        tokenizer: a trained tokenizer; it is moved to the best device.
        entries: the pictures.
        source: what to call them.
        split: which of them.
        batch_size: pictures at a time.
        workers: threads that read and decode; as many as there are cores, if None.
        refine: compare each code with so many others, by what they paint.
        advance: called with the number of pictures done since the last call.

    Returns:
        The codes, and a line for each picture that could not be read. The codes are those of
        `svq.tokenizer.tokenize`; the data's fingerprint is the SHA-256 over keys, pixels and labels.

    Raises:
        DataError: no picture can be read.
        CheckpointError: the tokenizer has no codebook.
    """
    batch_size = min(batch_size, SEARCH_BATCH) if refine else batch_size
    mark, device = fingerprint(tokenizer), choose_device()
    tokenizer.to(device)
    kept: list[Streamed] = []
    skipped: list[str] = []
    parts: list[NDArray[np.integer]] = []
    size = tokenizer.quantizer.codebook_size
    content = hashlib.sha256()
    for batch in stream(entries, tokenizer.config.image_size, batch_size, workers):
        skipped += [f"{one.entry.key}: {one.problem}" for one in batch if one.pixels is None]
        wanted = [one for one in batch if one.pixels is not None and split in ("all", one.split)]
        if wanted:
            pixels = np.stack([one.pixels for one in wanted if one.pixels is not None])  # (B, 3, S, S)
            images = to_float(torch.from_numpy(pixels).to(device))
            parts.append(tokenizer.encode(images, refine).cpu().numpy().astype(code_type(size)))
            for one, picture in zip(wanted, pixels, strict=True):
                content.update(f"{one.entry.key}|{one.entry.label}|{one.split}|".encode(errors="surrogateescape"))
                content.update(picture.tobytes())
            kept += [one._replace(pixels=None) for one in wanted]
        advance(len(batch))
    if not kept:
        reason = f"; the first problem: {skipped[0]}" if skipped else ""
        raise DataError(f"no readable picture in split '{split}' of {source}{reason}")
    codes = _collect(kept, np.concatenate(parts), size, mark, content.hexdigest(), source)
    return replace(codes, refine=refine), skipped


def _collect(
    kept: list[Streamed], codes: NDArray[np.integer], codebook_size: int, tokenizer: str, data: str, source: str
) -> Codes:
    """Put codes (N, 36) together with what is known of their pictures."""
    classes = tuple(sorted_classes({one.entry.label for one in kept if one.entry.label is not None}))
    number = {label: i for i, label in enumerate(classes)}
    return Codes(
        codes=codes,
        labels=np.array([-1 if one.entry.label is None else number[one.entry.label] for one in kept], dtype=np.int64),
        validation=np.array([one.split == "val" for one in kept]),
        captions=tuple(one.entry.caption or one.entry.synthetic for one in kept),
        classes=classes,
        codebook_size=codebook_size,
        tokenizer=tokenizer,
        data=data,
        source=source,
    )
