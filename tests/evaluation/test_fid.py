"""Distances between sets of pictures."""

import hashlib
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from svq.data import ImageSet
from svq.errors import DataError, UserError
from svq.evaluation import fid
from svq.evaluation.features import RANDOM_CONV, RandomConvFeatures
from svq.evaluation.fid import PictureSet, distance, distance_to
from svq.pixels import to_float, to_uint8


class Pixels(RandomConvFeatures):
    """Features that are the pixels themselves, for sets whose distance is known."""

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return ("12",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "12"

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (images.flatten(1).float(),)


register_feature_extractor("test-pixels", Pixels)


def of(images: np.ndarray, name: str = "set") -> PictureSet:
    return PictureSet(images, name, name)


def test_a_set_has_no_distance_to_itself(pictures: ImageSet) -> None:
    metrics = distance(of(pictures.images), of(pictures.images), features="random-conv")["metrics"]
    assert metrics["frechet_random_conv"] == pytest.approx(0, abs=1e-4)  # sets of noise differ by 0.1 and more


def test_a_worse_set_is_further_away(pictures: ImageSet) -> None:
    rng = np.random.default_rng(0)
    distances = []
    for strength in (5, 20, 80):
        noise = rng.normal(0, strength, pictures.images.shape)
        noisy = np.clip(pictures.images + noise, 0, 255).astype(np.uint8)
        distances.append(
            distance(of(noisy), of(pictures.images), features="random-conv")["metrics"]["frechet_random_conv"]
        )
    assert 0 < distances[0] < distances[1] < distances[2]


def test_two_gaussians_have_the_distance_of_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fid, "RANDOM_CONV", "test-pixels")
    rng = np.random.default_rng(0)
    n, dim = 20_000, 12
    means, stds = (100.0, 110.0), (8.0, 14.0)
    sets = [
        np.clip(rng.normal(mean, std, (n, dim)).round(), 0, 255).astype(np.uint8).reshape(n, 3, 2, 2)
        for mean, std in zip(means, stds, strict=True)
    ]
    # |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), here with S = std^2 I.
    expected = dim * ((means[0] - means[1]) ** 2 + (stds[0] - stds[1]) ** 2)
    measured = distance(of(sets[0]), of(sets[1]), features="random-conv", batch_size=1000)
    assert measured["metrics"]["frechet_random_conv"] == pytest.approx(expected, rel=0.02)


def test_random_features_are_never_called_fid(pictures: ImageSet) -> None:
    result = distance(of(pictures.images), of(pictures.images), features="random-conv")
    assert result["metrics"].keys() == {"frechet_random_conv", "kid_random_conv"}
    assert any("not FID" in warning for warning in result["warnings"])
    assert any("biased upwards" in warning for warning in result["warnings"])


def test_random_features_are_the_same_on_every_machine() -> None:
    extractor = RandomConvFeatures(RANDOM_CONV, ["448"])
    images = (torch.arange(2 * 3 * 32 * 32) % 256).to(torch.uint8).view(2, 3, 32, 32)
    (features,) = extractor(images)
    assert features.shape == (2, 448)
    assert features.mean().item() == pytest.approx(0.23931, abs=1e-4)


def test_the_receipt_says_what_repeats_it(pictures: ImageSet) -> None:
    receipt = distance(of(pictures.images, "a"), of(pictures.images, "b"), features="random-conv")
    assert receipt["samples"] == {"name": "a", "fingerprint": "a", "count": 64, "image_size": 16}
    assert receipt["settings"].keys() >= {"kid_subset_size", "isc_splits", "cuda", "batch_size", "rng_seed"}
    assert receipt["versions"].keys() >= {"svq", "torch", "torch-fidelity"}


def test_statistics_of_a_reference_are_cached_by_its_fingerprint(pictures: ImageSet, tmp_path: Path) -> None:
    def measure(images: np.ndarray, name: str) -> float:
        result = distance(of(pictures.images), of(images, name), features="random-conv", cache=tmp_path)
        return float(result["metrics"]["frechet_random_conv"])

    first = measure(pictures.images, "one")
    assert measure(255 - pictures.images, "two") > first + 0.1  # another fingerprint, other statistics
    assert measure(pictures.images, "one") == pytest.approx(first)
    assert measure(255 - pictures.images, "one") == pytest.approx(first)  # known by that, and not looked at again
    # Parts of one set differ at the end of a long name only.
    long = "0123456789abcdef" * 4
    assert measure(255 - pictures.images, f"{long}-val") != pytest.approx(measure(pictures.images, f"{long}-train"))
    assert any(tmp_path.rglob("*.pt"))


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with weights of the true Inception architecture, drawn at random."""
    (tmp_path / "none.pth").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(tmp_path / "none.pth"))
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_the_true_inception_architecture_runs_from_a_file(inception: Path, pictures: ImageSet) -> None:
    images = np.ascontiguousarray(pictures.images[:6])
    result = distance(of(images), of(255 - images), features="inception", weights=inception)
    assert result["metrics"].keys() == {"fid", "kid", "inception_score"}
    assert all(np.isfinite(v) for v in result["metrics"].values())
    assert result["metrics"]["fid"] > 0
    assert len(result["weights_sha256"]) == 64


def test_without_weights_and_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError, match=r"--weights PATH, or measure .* --features random-conv") as error:
        fid.inception_weights(None)
    assert "\n" not in str(error.value)


def test_the_weights_of_another_inception_are_refused(inception: Path) -> None:
    weights = torch.load(inception, weights_only=True)
    torch.save({**weights, "fc.weight": weights["fc.weight"][:1000], "fc.bias": weights["fc.bias"][:1000]}, inception)
    with pytest.raises(UserError, match="weights of another Inception, such as torchvision's"):
        fid.inception_weights(inception)


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.pth"
    if content is None:
        torch.save({"fc.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth"):
        fid.inception_weights(path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"x": Evil()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="is not a file of weights; expected those of Inception"):
        fid.inception_weights(tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


def test_one_picture_has_no_distribution(pictures: ImageSet) -> None:
    with pytest.raises(DataError, match="a distance needs at least 2"):
        distance(of(pictures.images[:1]), of(pictures.images), features="random-conv")


def test_a_function_measures_many_sets_against_one_reference(pictures: ImageSet) -> None:
    pixels = pictures.batch(pictures.indices("all"))
    noisy = to_uint8(to_float(pixels) + 0.05 * torch.randn(pixels.shape))
    with distance_to(pixels, "random-conv") as measure:
        near, far = measure(noisy), measure(255 - pixels)
        assert measure(pixels) == pytest.approx(0, abs=1e-4)
    assert 0 < near < far


def test_a_part_of_a_set_is_what_is_measured(pictures: ImageSet) -> None:
    chosen, seen = pictures.indices("train"), []
    part = PictureSet(pictures.images, "part", "part", chosen)
    receipt = distance(part, of(pictures.images[chosen]), features="random-conv", kid=False, advance=seen.append)
    assert receipt["metrics"]["frechet_random_conv"] == pytest.approx(0, abs=1e-4)
    assert receipt["samples"]["count"] == len(chosen)
    assert sum(seen) == 2 * len(chosen)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut", None])
def test_a_damaged_cache_costs_no_result(pictures: ImageSet, tmp_path: Path, content: bytes | None) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "owned",))

    def measure() -> float:
        result = distance(of(255 - pictures.images), of(pictures.images), features="random-conv", cache=tmp_path / "c")
        return float(result["metrics"]["frechet_random_conv"])

    first = measure()
    (file,) = (tmp_path / "c").iterdir()  # features, and nothing else is kept
    assert file.stat().st_mode & 0o044 == 0o044
    if content is None:
        torch.save({"x": Evil()}, file)
    else:
        file.write_bytes(content)
    assert measure() == first
    assert not (tmp_path / "owned").exists()
    assert torch.load(file, weights_only=True).shape == (64, 448)  # made anew


def test_a_cache_that_cannot_be_written_costs_no_result(pictures: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sets = of(255 - pictures.images), of(pictures.images)
    kept, lost = (distance(*sets, features="random-conv", cache=folder) for folder in (None, tmp_path / "file"))
    assert kept["metrics"] == lost["metrics"]


def test_kid_is_the_unbiased_estimate_of_its_kernel() -> None:
    """The mean maximum discrepancy of (x y / d + 1)^3, without the pairs of a picture with itself."""
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, high, (30, 3, 16, 16), dtype=np.uint8) for high in (256, 150)]
    found = distance(*(of(images, str(i)) for i, images in enumerate(sets)), features="random-conv")["metrics"]
    network = RandomConvFeatures(RANDOM_CONV, ["448"])
    with torch.no_grad():
        x, y = (network(torch.from_numpy(images))[0].double() for images in sets)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def others(values: torch.Tensor) -> torch.Tensor:
        return (values.sum() - values.diagonal().sum()) / (len(values) * (len(values) - 1))

    expected = others(kernel(x, x)) + others(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert found["kid_random_conv"] == pytest.approx(float(expected), rel=1e-4)


def test_means_are_reported_and_not_spreads(monkeypatch: pytest.MonkeyPatch, pictures: ImageSet) -> None:
    raw = {
        "frechet_inception_distance": 1.0, "kernel_inception_distance_mean": 2.0, "kernel_inception_distance_std": 3.0,
        "inception_score_mean": 4.0, "inception_score_std": 5.0,
    }  # fmt: skip
    monkeypatch.setattr(fid, "inception_weights", lambda path: Path(__file__))
    monkeypatch.setattr("torch_fidelity.calculate_metrics", lambda **_: raw)
    receipt = distance(of(pictures.images), of(pictures.images))
    assert receipt["metrics"] == {"fid": 1.0, "kid": 2.0, "inception_score": 4.0}
    assert receipt["weights_sha256"] == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
