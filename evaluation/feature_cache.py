"""The features of reference sets, kept by torch-fidelity from one measurement to the next.

What is special: torch-fidelity unpickles what lies there, which could run code, stops at a damaged file each time
anew, and loses a result that is measured but cannot be kept. Here nothing is unpickled that is not tensors only, and
a result never depends on the cache.
"""

import hashlib
import pickle
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from svq.files import open_to_others

Measure = Callable[..., dict[str, float]]  # takes cache, cache_root and input2_cache_name
TROUBLE = (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError)  # what torch calls a file it cannot use


def measure_with_cache(measure: Measure, cache: Path | None, reference: str) -> dict[str, float]:
    """Measure, with the features of the reference from the cache if they are there, and kept in it if that is possible.

    Args:
        measure: measures.
        cache: the folder; None keeps nothing.
        reference: names the reference's content and what sees it.
    """
    if cache is None:
        return measure(cache=False)
    # By what stands in a file's name, torch-fidelity does not know its content.
    name = hashlib.sha256(f"{reference}|{version('torch-fidelity')}".encode()).hexdigest()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_unsound(cache, name)
        result = measure(cache=True, cache_root=str(cache), input2_cache_name=name)
        for file in cache.glob(f"{name}*-features-*"):
            open_to_others(file)
        for file in cache.glob(f"{name}*-stat-*"):  # quick to make, and NumPy's, which torch does not trust
            file.unlink(missing_ok=True)
    except TROUBLE:  # a full disk, or the cache of another user; where the trouble is another, it comes again
        return measure(cache=False)
    return result


def _remove_unsound(cache: Path, name: str) -> None:
    """Remove what is no file of tensors only."""
    for file in cache.glob(f"{name}*"):
        try:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except TROUBLE:
            file.unlink(missing_ok=True)
