"""k-means in blocks is k-means."""

import pytest
import torch
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans as library_kmeans

from svq.tokenizer import kmeans as module
from svq.tokenizer.kmeans import kmeans


@pytest.mark.parametrize("cosine", [False, True])
def test_it_finds_what_the_library_does(cosine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)  # four latents
    torch.manual_seed(0)
    latents = torch.randn(502, 4, dtype=torch.float64)  # two are left over
    latents = torch.nn.functional.normalize(latents, dim=-1) if cosine else latents
    torch.manual_seed(1)
    means, counts = kmeans(latents, 16, 7, cosine)
    torch.manual_seed(1)
    start = latents[torch.randperm(len(latents))[:16]]
    expected, bins = library_kmeans(latents[None], 16, 7, cosine, sample_fn=lambda *_: start[None])
    torch.testing.assert_close(means, expected[0])
    torch.testing.assert_close(counts, bins[0].double())


def test_more_clusters_than_latents_leave_some_without_any() -> None:
    latents = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    means, counts = kmeans(latents, 5, 3)
    assert sorted(counts.tolist()) == [0, 0, 0, 1, 1]
    assert {tuple(mean) for mean in means.tolist()} == {(0.0, 1.0), (2.0, 3.0)}
