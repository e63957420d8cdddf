"""The encoder's posterior."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.encoder import Encoder, Posterior
from svq.tokenizer.layers import initialise


def built(config: TokenizerConfig) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(config)
    initialise(encoder)
    return encoder


def encode(encoder: Encoder, images: Tensor) -> Posterior:
    """Encode all latents: at once, or, one look after the other, with the same painting before its eyes."""
    if not encoder.looks:
        return encoder(images)
    features, size = encoder.features(images), encoder.tokens // len(encoder.looks)
    painting = torch.randn(len(images), size + 4, 32, generator=torch.Generator().manual_seed(0))
    groups = [encoder.look(features, painting, i) for i in range(len(encoder.looks))]
    return Posterior(*(torch.cat(parts, dim=1) for parts in zip(*groups, strict=True)))


def test_kl_is_that_of_the_textbook() -> None:
    mean, log_variance = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = kl_divergence(Normal(mean, torch.exp(log_variance / 2)), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(Posterior(mean, log_variance).kl(), expected)


def test_samples_have_the_posteriors_mean_and_spread() -> None:
    torch.manual_seed(0)
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])
    posterior = Posterior(mean.expand(100_000, 2), (2 * std.log()).expand(100_000, 2))
    sample = posterior.sample(torch.randn(100_000, 2))
    torch.testing.assert_close(sample.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(sample.std(0), std, atol=0.03, rtol=0)


def test_a_blind_encoders_latents_are_those_of_its_queries(config: TokenizerConfig) -> None:
    encoder = built(config.model_copy(update={"looks": 0, "ahead": None}))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(encoder(images).mean, encoder.mean(encoder.features(images)[:, encoder.patches :]))


@pytest.mark.parametrize(("looks", "ahead"), [(0, None), (2, None), (2, 2)])
def test_every_latent_sees_every_patch(config: TokenizerConfig, looks: int, ahead: int | None) -> None:
    encoder = built(config.model_copy(update={"looks": looks, "ahead": ahead}))
    images = torch.randn(1, 3, 16, 16, requires_grad=True)
    for token in range(config.tokens):
        (gradient,) = torch.autograd.grad(encode(encoder, images).mean[0, token].sum(), images)
        patches = gradient.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax((0, 1, 4, 5))  # (2, 2)
        assert (patches > 0).all(), token


@pytest.mark.parametrize(("looks", "ahead"), [(0, None), (2, None), (2, 2)])
def test_the_spread_stays_finite_whatever_the_weights(config: TokenizerConfig, looks: int, ahead: int | None) -> None:
    encoder = built(config.model_copy(update={"looks": looks, "ahead": ahead}))
    encoder.std.weight.data.mul_(1e6)
    assert encode(encoder, torch.randn(2, 3, 16, 16)).sample(torch.randn(2, 8, 4)).isfinite().all()
