"""Searching for better codes than the encoder's."""

import pytest
import torch
from torch import Tensor

from svq.data import ImageSet
from svq.data.imageset import to_float
from svq.errors import UserError
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import QuantizerConfig, TokenizerConfig, VQConfig
from tests.tokenizer.kinds import KINDS


@pytest.fixture
def images(pictures: ImageSet) -> Tensor:
    return to_float(pictures.some("train", 40))


def build(config: TokenizerConfig, images: Tensor) -> StyledTokenizer:
    """Return a tokenizer that is not trained, but has a codebook and latents of variance 1."""
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config)
    with torch.no_grad():
        for _ in range(50):  # the running statistics of the latents
            latents = tokenizer.latents(images)
        tokenizer.eval()
        tokenizer.quantizer.start(latents)
    return tokenizer


def error(tokenizer: StyledTokenizer, codes: Tensor, images: Tensor) -> Tensor:
    return (tokenizer.decode(codes) - images).square().mean((1, 2, 3))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_no_picture_is_painted_worse_and_most_better(
    config: TokenizerConfig, images: Tensor, kind: QuantizerConfig
) -> None:
    tokenizer = build(config.model_copy(update={"quantizer": kind}), images)
    before = error(tokenizer, tokenizer.encode(images), images)
    after = error(tokenizer, tokenizer.encode(images, refine_steps=8), images)
    assert bool((after <= before * (1 + 1e-5)).all())
    assert float((after < before * 0.999).float().mean()) > 0.9


def test_prefixes_gain_as_well(config: TokenizerConfig, images: Tensor) -> None:
    tokenizer = build(config, images)
    before, after = tokenizer.encode(images), tokenizer.encode(images, refine_steps=20)
    for k in range(1, config.tokens):
        assert error(tokenizer, after[:, :k], images).mean() < error(tokenizer, before[:, :k], images).mean()


def test_it_depends_neither_on_the_company_nor_on_the_mode_nor_on_luck(config: TokenizerConfig, images: Tensor) -> None:
    tokenizer = build(config, images)
    together = tokenizer.encode(images, refine_steps=5)
    torch.manual_seed(1)
    alone = torch.cat([tokenizer.encode(image[None], refine_steps=5) for image in images])
    torch.testing.assert_close(together, alone)
    with torch.inference_mode():
        torch.testing.assert_close(together, tokenizer.encode(images.clone(), refine_steps=5))


def test_the_tokenizer_stays_as_it_is(config: TokenizerConfig, images: Tensor) -> None:
    tokenizer = build(config.model_copy(update={"quantizer": VQConfig(codebook_size=32)}), images)
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    tokenizer.encode(images, refine_steps=3)
    for name, tensor in tokenizer.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in tokenizer.parameters())


def test_a_negative_number_of_steps_is_refused(config: TokenizerConfig, images: Tensor) -> None:
    with pytest.raises(UserError, match="refine_steps must be 0 or more, got -1"):
        build(config, images).encode(images, refine_steps=-1)
