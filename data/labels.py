"""What the labels of an image record mean, and captions as numbers.

A record's labels are float32 values before the picture, so that a reader such as DALI returns them with it:

    class           1 value:    the number of the class, -1 for none
    captions        154 values: 77 CLIP BPE ids of the raw caption, then 77 of the synthetic one, the layout
                                of the YFCC15M-recap ``.rec`` files
    class+captions  155 values: the class, then the captions

A caption that is missing is 77 zeros; every other one begins with the id `START`.
"""

from collections.abc import Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svq.errors import UserError

Layout = Literal["class", "captions", "class+captions"]
START, END = 49406, 49407  # ids before and behind the text of a caption
CONTEXT = 77  # ids of one caption (Radford et al. 2021, arXiv:2103.00020)
LETTERS = 2000  # of a caption that are looked at; more than 75 tokens have, and its time grows with a word's square
WORDS = 100_000  # that CLIP's tokenizer may remember; in millions of captions there are millions
WIDTHS: dict[Layout, int] = {"class": 1, "captions": 2 * CONTEXT, "class+captions": 1 + 2 * CONTEXT}


class Labels(NamedTuple):
    """The labels of a batch, taken apart; None for what the layout does not hold."""

    classes: NDArray[np.int64] | None  # (B,), -1 for none
    raw: NDArray[np.int64] | None  # (B, 77)
    synthetic: NDArray[np.int64] | None  # (B, 77)


def join_labels(layout: Layout, number: int, raw: str, synthetic: str) -> tuple[float, ...]:
    """Return the labels of one record.

    Args:
        layout: what the labels hold.
        number: the class, -1 for none.
        raw: the raw caption, empty if there is none.
        synthetic: the synthetic caption, empty if there is none.

    Raises:
        UserError: captions are asked for and open_clip_torch is not installed.
    """
    values: list[float] = [] if layout == "captions" else [number]
    if layout != "class":
        values += [*_ids(raw), *_ids(synthetic)]
    return tuple(values)


def split_labels(layout: Layout, values: NDArray[np.floating]) -> Labels:
    """Take the labels of a batch apart.

    Args:
        layout: what the labels hold.
        values: (B, width) as the records hold them.
    """
    ids = values.astype(np.int64)  # (B, width); exact, for float32 holds all integers up to 2^24
    classes = None if layout == "captions" else ids[:, 0]
    if layout == "class":
        return Labels(classes, None, None)
    return Labels(classes, ids[:, -2 * CONTEXT : -CONTEXT], ids[:, -CONTEXT:])


def layout_of(width: int) -> Layout:
    """Return the layout of a foreign record by the number of its labels; the first of any other number is a class."""
    return next((layout for layout, n in WIDTHS.items() if n == width), "class")


def _ids(caption: str) -> Sequence[int]:
    """Return the 77 ids of a caption: start, text, end, zeros; a long text is cut."""
    if not caption:
        return [0] * CONTEXT
    tokenizer = clip_tokenizer()
    ids = tokenizer([caption[:LETTERS]])[0].tolist()
    while len(tokenizer.cache) > WORDS:
        tokenizer.cache.popitem()  # the newest; some it must have are the first, and frequent words come early
    return ids


@cache
def clip_tokenizer() -> Any:
    """Return the tokenizer of CLIP, from open_clip_torch, whose wheel holds the vocabulary.

    Only its file is loaded: the package would import its models, too, which takes seconds.

    Raises:
        UserError: open_clip_torch is not installed.
    """
    package = find_spec("open_clip")
    places = list(package.submodule_search_locations or ()) if package else []
    spec = PathFinder.find_spec("tokenizer", places) if places else None
    if spec is None or spec.origin is None:
        raise UserError("captions as labels need the tokenizer of CLIP: pip install 'svq[captions]'")
    spec = spec_from_file_location("open_clip_tokenizer", Path(spec.origin))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()
