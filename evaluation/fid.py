"""Distances between two sets of pictures, through torch-fidelity: FID, KID and the Inception score.

References: FID, Heusel et al. 2017, arXiv:1706.08500; KID, Binkowski et al. 2018, arXiv:1801.01401;
Inception score, Salimans et al. 2016, arXiv:1606.03498.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch_fidelity
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from svq.errors import DataError, UserError
from svq.evaluation.feature_cache import measure_with_cache
from svq.evaluation.features import RANDOM_CONV
from svq.evaluation.weights import read_weights
from svq.provenance import file_sha256, versions

Features = Literal["inception", "random-conv"]
FEW = 10_000  # below so many pictures, FID is biased upwards enough to mislead
KID_SUBSET = 1000
INCEPTION_CLASSES = 1008  # of the network that FID is defined by; torchvision's has 1000


class PictureSet(NamedTuple):
    """Pictures (N, 3, S, S) uint8 with the name and the fingerprint of their set; the `chosen` of them, or all."""

    images: NDArray[np.uint8]
    name: str
    fingerprint: str
    chosen: NDArray[np.int64] | None = None

    @property
    def size(self) -> int:
        """Number of pictures."""
        return len(self.images) if self.chosen is None else len(self.chosen)


class _Pictures(Dataset[Tensor]):
    def __init__(self, part: PictureSet, advance: Callable[[int], None]) -> None:
        self.part, self.advance, self.seen = part, advance, 0

    def __len__(self) -> int:
        return self.part.size

    def __getitem__(self, index: int) -> Tensor:
        if index == self.seen:  # torch-fidelity takes them in order, but looks at the first one beforehand
            self.seen += 1
            self.advance(1)
        place = index if self.part.chosen is None else self.part.chosen[index]
        return torch.from_numpy(np.array(self.part.images[place]))


def inception_cache() -> Path:
    """Return where torch-fidelity and svq look for the Inception weights, and keep them once fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]


def _fetch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = path.stem.rsplit("-", 1)[-1]  # torch hub's convention: the name ends with the start of the SHA-256
    try:
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"FID needs the Inception weights {path.name}, which are not at hand and cannot be fetched ({error}); "
            "give their file with --weights PATH, or measure on random features with --features random-conv"
        ) from error


def inception_weights(path: Path | None) -> Path:
    """Return the file of Inception weights: the one named, the one in torch's cache, or a fresh download.

    Raises:
        UserError: there is none and it cannot be fetched, or the file is not one of tensors only.
    """
    if path is None:
        path = inception_cache()
        if not path.exists():
            _fetch(path)
    # torch-fidelity unpickles the file as it is, which could run code. Read it safely first: what passes here holds
    # tensors only.
    expected = f"Inception ({URL_INCEPTION_V3})"
    classes = read_weights(path, expected, has="Mixed_7c.branch1x1.conv.weight").get("fc.bias")
    if classes is None or len(classes) != INCEPTION_CLASSES:
        raise UserError(
            f"{path} holds weights of another Inception, such as torchvision's; expected those of {expected}"
        )
    return path


def distance(
    samples: PictureSet,
    reference: PictureSet,
    features: Features = "inception",
    weights: Path | None = None,
    cache: Path | None = None,
    batch_size: int = 64,
    kid: bool = True,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Measure how far samples are from a reference.

    Args:
        samples: the pictures to judge.
        reference: the pictures they should resemble.
        features: ``inception`` gives ``fid``, ``kid`` and ``inception_score``; ``random-conv`` gives
            ``frechet_random_conv`` and ``kid_random_conv``, which are comparable among themselves only.
        weights: a file of Inception weights; None looks into torch's cache, then into the network.
        cache: folder for the features of the reference's pictures, kept under its fingerprint (with Inception 12 KB for
            each picture); None keeps nothing.
        batch_size: pictures at a time.
        kid: measure KID, too, which takes as long again on few pictures.
        advance: called with the number of pictures seen since the last call; those of a known reference are not.

    Returns:
        A receipt: the metrics, warnings, and all that is needed to repeat them.

    Raises:
        DataError: a set has fewer than two pictures.
        UserError: there are no Inception weights.
    """
    for part in (samples, reference):
        if part.size < 2:
            raise DataError(f"{part.name} has {part.size} pictures; a distance needs at least 2")
    inception = features == "inception"
    path = inception_weights(weights) if inception else None
    weights_hash = file_sha256(path) if path else None
    fewest = min(samples.size, reference.size)
    settings = {
        "kid_subsets": 100,
        "kid_subset_size": min(KID_SUBSET, fewest),
        "isc_splits": min(10, samples.size),
        "cuda": torch.cuda.is_available(),
        "batch_size": batch_size,
        "rng_seed": 0,
    }
    measure = partial(
        torch_fidelity.calculate_metrics,
        input1=_Pictures(samples, advance),
        input2=_Pictures(reference, advance),
        fid=True,
        kid=kid,
        isc=inception,
        feature_extractor="inception-v3-compat" if inception else RANDOM_CONV,
        feature_extractor_weights_path=str(path) if path else None,
        save_cpu_ram=True,  # no worker processes: the pictures are in memory already
        verbose=False,
        **settings,
    )
    raw = measure_with_cache(measure, cache, f"{reference.fingerprint}|{weights_hash}")
    return {
        "metrics": _named(raw, inception),
        "warnings": _warnings(fewest, inception),
        "features": features,
        "weights_sha256": weights_hash,
        "samples": _describe(samples),
        "reference": _describe(reference),
        "settings": settings,
        "versions": versions(),
    }


@contextmanager
def distance_to(
    reference: Tensor, features: Features, weights: Path | None = None
) -> Iterator[Callable[[Tensor], float]]:
    """Yield a function that measures the Fréchet distance of pictures (N, 3, S, S) uint8 to a reference of that kind.

    The features of the reference are computed once, and forgotten at the end.
    """

    def as_set(images: Tensor, name: str) -> PictureSet:
        return PictureSet(images.cpu().numpy(), name, name)

    originals = as_set(reference, "originals")
    metric = "fid" if features == "inception" else "frechet_random_conv"

    with tempfile.TemporaryDirectory() as cache:

        def measure(images: Tensor) -> float:
            painted = as_set(images, "painted")
            result = distance(painted, originals, features=features, weights=weights, cache=Path(cache), kid=False)
            return float(result["metrics"][metric])

        yield measure


def _named(raw: dict[str, float], inception: bool) -> dict[str, float]:
    names = {
        "frechet_inception_distance": "fid" if inception else "frechet_random_conv",
        "kernel_inception_distance_mean": "kid" if inception else "kid_random_conv",
        "inception_score_mean": "inception_score",
    }
    return {name: raw[key] for key, name in names.items() if key in raw}


def _warnings(fewest: int, inception: bool) -> list[str]:
    found = []
    if not inception:
        found.append("a Fréchet distance on random features, not FID: compare it with its like only")
    if fewest < FEW:
        found.append(f"{fewest} pictures: the Fréchet distance is biased upwards below {FEW}; prefer KID")
    return found


def _describe(part: PictureSet) -> dict[str, Any]:
    return {
        "name": part.name,
        "fingerprint": part.fingerprint,
        "count": part.size,
        "image_size": part.images.shape[-1],
    }
