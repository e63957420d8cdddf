"""The features of reference sets, kept from one measurement to the next.

What is special: torch-fidelity unpickles what lies in its cache, which could run code, stops at a damaged file each
time anew, and loses a result that is measured but cannot be kept. So it gets a cache of its own for each measurement,
with links to what is known, and what it adds is kept if that is possible.
"""

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from svq.files import open_to_others

Measure = Callable[..., dict[str, float]]  # takes cache, cache_root and input2_cache_name
TROUBLE = (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError)  # what torch says of a bad file


def measure_with_cache(measure: Measure, cache: Path | None, reference: str) -> dict[str, float]:
    """Measure, with the features of the reference from the cache if they are there, and kept in it if that is possible.

    Args:
        measure: measures.
        cache: the folder; None keeps nothing.
        reference: names the reference's content and what sees it.
    """
    if cache is None:
        return measure(cache=False)
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    # torch-fidelity's own name says nothing of the content.
    name = hashlib.sha256(f"{reference}|{version('torch-fidelity')}".encode()).hexdigest()
    writable = cache.is_dir() and os.access(cache, os.W_OK)
    with tempfile.TemporaryDirectory(prefix=".", dir=cache if writable else None) as work:
        for file in cache.glob(f"{name}*"):
            if _is_sound(file):
                (Path(work) / file.name).symlink_to(file.resolve())
        try:
            result = measure(cache=True, cache_root=work, input2_cache_name=name)
        except TROUBLE:  # a full disk; where the trouble is another, it comes again
            return measure(cache=False)
        with suppress(OSError):
            for file in Path(work).glob(f"{name}-*-features-*"):  # statistics of them are quick to make
                if not file.is_symlink():
                    open_to_others(file)
                    file.rename(cache / file.name)
    return result


def _is_sound(file: Path) -> bool:
    """Say whether a file can be read, and holds tensors only."""
    try:
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except TROUBLE:
        return False
    return True
