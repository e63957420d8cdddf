"""The file of codes: what stage one writes and stage two reads, one safetensors file.

codes         (N, 36) uint16, or uint32 for a codebook of more than 65,536 codes
labels        (N,) int64, an index into the classes, or -1
validation    (N,) uint8, 1 where the picture is held out
captions      all captions in UTF-8, one after the other, uint8
caption_ends  (N,) int64, where each of them ends
metadata      version, SHA-256 of the tensors, fingerprints of tokenizer and data, classes, codebook size
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from svq.errors import CheckpointError
from svq.files import new_file, open_to_others

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "1"


def code_type(codebook_size: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest type for codes: a quarter or half of int64, which of millions of pictures is gigabytes."""
    return np.uint16 if codebook_size <= 2**16 else np.uint32


@dataclass(frozen=True)
class Codes:
    """Sentences of codes with what is known of their pictures.

    Attributes:
        codes: (N, 36) integers in [0, codebook_size).
        labels: (N,) int64, an index into `classes`, or -1.
        validation: (N,) bool, the pictures that are held out.
        captions: N texts.
        classes: names of the classes.
        codebook_size: number of codes.
        tokenizer: fingerprint of the tokenizer.
        data: fingerprint of the data set.
        source: the data set as the user named it.
        refine: how many others each code was compared with; 0: as the encoder wrote it.
    """

    codes: NDArray[np.integer]
    labels: NDArray[np.int64]
    validation: NDArray[np.bool_]
    captions: tuple[str, ...]
    classes: tuple[str, ...]
    codebook_size: int
    tokenizer: str
    data: str
    source: str
    refine: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self) -> "Tensor":
        """Return the codes as a tensor, (N, 36) int64."""
        import torch  # not needed to read or write the file

        return torch.from_numpy(self.codes.astype(np.int64))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it cannot be written, to a full disk for one.
        """
        encoded = [caption.encode() for caption in self.captions]
        tensors = {
            "codes": self.codes.astype(code_type(self.codebook_size)),
            "labels": self.labels.astype(np.int64),
            "validation": self.validation.astype(np.uint8),
            "captions": np.frombuffer(b"".join(encoded), np.uint8),
            "caption_ends": np.cumsum([len(c) for c in encoded], dtype=np.int64),
        }
        metadata = {
            "format": "svq codes",
            "sha256": _digest(tensors),
            "version": VERSION,
            "classes": json.dumps(self.classes),
            "codebook_size": str(self.codebook_size),
            "tokenizer": self.tokenizer,
            "data": self.data,
            "source": os.fsencode(self.source).decode(errors="backslashreplace"),  # a path need not be text
            "refine": str(self.refine),
        }
        with new_file(path) as work:
            try:
                save_file(tensors, work, metadata)
            except SafetensorError as error:  # what a full disk is called there
                raise OSError(f"{path} cannot be written: {error}") from error
            open_to_others(work)


def _digest(tensors: dict[str, NDArray[Any]]) -> str:
    """Return the SHA-256 over all tensors, names and types included."""
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name}|{array.dtype}|{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def holds_codes(path: Path) -> bool:
    """Say whether a file is one of codes, of whatever version."""
    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("format") == "svq codes"
    except (OSError, SafetensorError):
        return False


def load_codes(path: Path) -> Codes:
    """Read a file of codes.

    Raises:
        CheckpointError: it is missing, damaged, or not a file of codes.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the file that 'svq tokenize' wrote")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "svq codes" or metadata.get("version") != VERSION:
                raise CheckpointError(
                    f"{path} is not a file of codes of version {VERSION}; make one with 'svq tokenize'"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); make it with 'svq tokenize'") from error
    if metadata.get("sha256") != _digest(tensors):
        raise CheckpointError(
            f"{path} is damaged: its content is not what was written; make it anew with 'svq tokenize'"
        )
    text, ends = tensors["captions"].tobytes(), tensors["caption_ends"]
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    return Codes(
        codes=tensors["codes"],
        labels=tensors["labels"],
        validation=tensors["validation"].astype(bool),
        captions=tuple(text[a:b].decode() for a, b in zip(starts, ends, strict=True)),
        classes=tuple(json.loads(metadata["classes"])),
        codebook_size=int(metadata["codebook_size"]),
        tokenizer=metadata["tokenizer"],
        data=metadata["data"],
        source=metadata["source"],
        refine=int(metadata.get("refine", "0")),  # files from before it have none
    )
