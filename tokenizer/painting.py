"""From a file of codes to a folder of pictures, which `svq paint` and `svq generate` write alike.

images/000000.png ...   one file for each picture, named by its number
grid.png                the first 64 of them
samples.json            where they came from: all that repeats them

What is special: encoding and writing overlap with the model at work, and the folder appears when it is complete.
"""

import io
import json
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from svq.data.codes import Codes
from svq.data.imageset import Advance, nothing
from svq.data.sources import GENERATED
from svq.errors import CheckpointError, UserError
from svq.evaluation.pictures import save_grid
from svq.pixels import to_float, to_uint8
from svq.provenance import versions
from svq.tokenizer.model import StyledTokenizer
from svq.training.checkpoint import fingerprint, replace
from svq.training.device import choose_device

BATCH = 128
SHOWN = 64
WRITERS = 2


def paint_codes(
    tokenizer: StyledTokenizer,
    sentences: Codes,
    out: Path,
    first: int | None = None,
    batch_size: int = BATCH,
    advance: Advance = nothing,
) -> dict[str, Any]:
    """Paint sentences, or only the `first` codes of each, into the folder `out`.

    Returns:
        The record, as in ``samples.json``.

    Raises:
        UserError: `out` holds something that is not an earlier result, or there are not so many codes.
        CheckpointError: the codes are another tokenizer's.
    """
    if sentences.tokenizer != fingerprint(tokenizer):
        raise CheckpointError("these codes were written by another tokenizer; name theirs with --tokenizer")
    tokens = sentences.codes.shape[1]
    if first is not None and first > tokens:
        raise UserError(f"the first {first} codes of each were asked for, and each has {tokens}")
    device = choose_device()
    tokenizer.to(device)
    codes = sentences.codes[:, :first]
    record = {
        "count": len(sentences),
        "codes": codes.shape[1],
        "source": sentences.source,
        "data": sentences.data,
        "refine": sentences.refine,
        "tokenizer": {"fingerprint": sentences.tokenizer, "config": tokenizer.config.model_dump(mode="json")},
        "versions": versions(),
    }
    with new_folder(out) as work:
        parts = (codes[i : i + batch_size].astype(np.int64) for i in range(0, len(codes), batch_size))
        batches = (to_uint8(tokenizer.decode(torch.from_numpy(part).to(device))).cpu() for part in parts)
        write_pictures(work, batches, record, advance)
    return record


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes the place of `out` at the end of the block if nothing failed.

    Raises:
        UserError: `out` holds something that is not an earlier result; at the end of the block, what was made is kept
            beside it.
    """
    out = out.resolve()  # of a link, what it points to is replaced
    check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # its own, should two write at once
    try:
        work.chmod(0o755)
        yield work
        if not _may_be_replaced(out):  # hours may have passed
            kept = work.rename(out.with_name(work.name.removeprefix(".")))
            raise UserError(f"{out} holds files now that others wrote meanwhile; the new pictures are in {kept}")
        replace(out, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Refuse a folder that holds something that is not an earlier result.

    Raises:
        UserError: it does.
    """
    if not _may_be_replaced(out):
        raise UserError(f"{out} holds other files, which would be lost; give another --out")


def _may_be_replaced(out: Path) -> bool:
    if not out.exists():
        return True
    names, images = {p.name for p in out.iterdir()}, out / "images"
    if not names:
        return True
    ours = GENERATED in names and names <= {"images", "grid.png", GENERATED} and images.is_dir()
    return ours and all(re.fullmatch(r"\d{6,}\.png", p.name) for p in images.iterdir())


def write_pictures(folder: Path, batches: Iterable[Tensor], record: dict[str, Any], advance: Advance = nothing) -> None:
    """Write batches of pictures (b, 3, S, S) uint8, a grid of the first, and the record into an empty folder."""
    (folder / "images").mkdir()
    written, shown = 0, []
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(WRITERS, "paint") as pool:
        for batch in batches:
            if written < SHOWN:
                shown.append(batch[: SHOWN - written].clone())  # a part of a batch would hold all of it
            for picture in batch.numpy():
                writing.append(pool.submit(_write, picture, folder / "images" / f"{written:06d}.png"))
                written += 1
            while len(writing) > 2 * len(batch):
                writing.popleft().result()
            advance(len(batch))
        for future in writing:
            future.result()
    save_grid(folder / "grid.png", to_float(torch.cat(shown)))
    (folder / GENERATED).write_text(json.dumps(record, indent=1))


def _write(picture: NDArray[np.uint8], path: Path) -> None:
    png = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(png, "PNG")
    path.write_bytes(png.getvalue())
