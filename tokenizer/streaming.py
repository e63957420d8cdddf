"""Pictures to codes, file by file, as a stream.

What is special: reading and decoding overlap with the model at work, and of the pictures no more than a few batches
are held: their codes, classes and captions are what is collected.
"""

import hashlib
from array import array
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from svq.data.codes import Codes, code_type
from svq.data.entries import Entry
from svq.data.imageset import Advance, nothing, sorted_classes
from svq.data.stream import Streamed, stream
from svq.errors import DataError
from svq.pixels import to_float
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
    skipped: list[str] = []
    found = _Collected()
    # What is known to be of the other split is not even read.
    chosen = (entry for entry in entries if split == "all" or entry.split in (None, split))
    for batch in stream(chosen, tokenizer.config.image_size, batch_size, workers):
        skipped += [f"{one.entry.key}: {one.problem}" for one in batch if one.pixels is None]
        wanted = [one for one in batch if one.pixels is not None and split in ("all", one.split)]
        if wanted:
            pixels = np.stack([one.pixels for one in wanted if one.pixels is not None])  # (B, 3, S, S)
            codes = tokenizer.encode(to_float(torch.from_numpy(pixels).to(device)), refine).cpu().numpy()
            found.add(wanted, codes.astype(code_type(tokenizer.quantizer.codebook_size)))
        advance(len(batch))
    if not found.codes:
        reason = f"; the first problem: {skipped[0]}" if skipped else ""
        raise DataError(f"no readable picture in split '{split}' of {source}{reason}")
    return found.together(tokenizer.quantizer.codebook_size, mark, source, refine), skipped


class _Collected:
    """The codes of pictures so far, and in few bytes what is known of each."""

    def __init__(self) -> None:
        self.codes: list[NDArray[np.integer]] = []
        self.labels = array("q")  # as numbers, in the order in which classes appear
        self.seen: dict[str, int] = {}
        self.validation = bytearray()
        self.captions: list[str] = []
        self.content = hashlib.sha256()

    def add(self, pictures: list[Streamed], codes: NDArray[np.integer]) -> None:
        """Take note of readable pictures and their codes (B, 36)."""
        self.codes.append(codes)
        for entry, pixels, split, _ in pictures:
            assert pixels is not None
            self.content.update(f"{entry.key}|{entry.label}|{split}|".encode(errors="surrogateescape"))
            self.content.update(pixels.tobytes())
            self.labels.append(-1 if entry.label is None else self.seen.setdefault(entry.label, len(self.seen)))
            self.validation.append(split == "val")
            self.captions.append(entry.caption or entry.synthetic)

    def together(self, codebook_size: int, tokenizer: str, source: str, refine: int) -> Codes:
        """Put all together, with the classes in order."""
        classes = tuple(sorted_classes(self.seen))
        places = {label: i for i, label in enumerate(classes)}
        number = np.array([*(places[label] for label in self.seen), -1])  # by the number at hand; the last one of -1
        return Codes(
            codes=np.concatenate(self.codes),
            labels=number[np.frombuffer(self.labels, np.int64)],
            validation=np.frombuffer(self.validation, bool),
            captions=tuple(self.captions),
            classes=classes,
            codebook_size=codebook_size,
            tokenizer=tokenizer,
            data=self.content.hexdigest(),
            source=source,
            refine=refine,
        )
