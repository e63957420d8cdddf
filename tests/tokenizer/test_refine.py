"""Searching for better codes than the encoder's."""

from typing import Any

import pytest
import torch
from torch import Tensor

from svq.data import ImageSet
from svq.errors import UserError
from svq.pixels import to_float
from svq.tokenizer import StyledTokenizer, refine
from svq.tokenizer.config import KMeansConfig, QuantizerConfig, TokenizerConfig, VQConfig
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


def by_hand(tokenizer: StyledTokenizer, image: Tensor, others: int) -> Tensor:
    """The search for one picture (1, 3, S, S): every choice by itself, and painted from its first layer on."""
    tokens, looks, quantizer = tokenizer.config.tokens, tokenizer.config.looks, tokenizer.quantizer
    codebook = quantizer.lookup(torch.arange(quantizer.codebook_size)[None])[0]
    latents = tokenizer.latents(image)
    codes = quantizer(latents).codes
    for position in range(tokens):
        if looks and position and position % (tokens // looks) == 0:
            latents = tokenizer.latents(image, given=codes[:, :position])
            anew = torch.cat([codes[:, :position], quantizer(latents).codes[:, position:]], dim=1)
            if error(tokenizer, anew, image) < error(tokenizer, codes, image):
                codes = anew
        far = (quantizer.continuous(latents)[0, position] - codebook).norm(dim=1)
        near = [code for code in far.argsort() if code != codes[0, position]][:others]
        half = (position + 1 + tokens) // 2
        most = error(tokenizer, codes, image)
        least = most + error(tokenizer, codes[:, :half], image)
        for code in near:
            choice = codes.index_fill(1, torch.tensor([position]), int(code))
            whole = error(tokenizer, choice, image)
            total = whole + error(tokenizer, choice[:, :half], image)
            if whole <= most and total < least:
                codes, least = choice, total
    return codes


@pytest.mark.parametrize("looks", [0, 2, 4])
def test_the_search_equals_its_plain_transcription(config: TokenizerConfig, images: Tensor, looks: int) -> None:
    quantizer = KMeansConfig(codebook_size=32, dim=4)
    tokenizer = build(config.model_copy(update={"looks": looks, "quantizer": quantizer}), images)
    some = images[:6]
    expected = torch.cat([by_hand(tokenizer, image[None], others=3) for image in some])
    found = tokenizer.encode(some, refine=3)
    assert (found == expected).all()
    assert (found != tokenizer.encode(some)).float().mean() > 0.2


def test_more_others_than_there_are_is_all_of_them(config: TokenizerConfig, images: Tensor) -> None:
    tokenizer = build(config.model_copy(update={"quantizer": KMeansConfig(codebook_size=8, dim=4)}), images[:8])
    torch.testing.assert_close(tokenizer.encode(images[:3], refine=7), tokenizer.encode(images[:3], refine=100))


def test_no_more_than_a_fixed_number_is_painted_at_once(
    config: TokenizerConfig, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = build(config.model_copy(update={"quantizer": KMeansConfig(codebook_size=32, dim=4)}), images)
    expected = tokenizer.encode(images[:3], refine=20)
    painted, complete = [], tokenizer.decoder.complete

    def counting(x: Tensor, *rest: Any) -> Tensor:
        painted.append(len(x))
        return complete(x, *rest)

    monkeypatch.setattr(tokenizer.decoder, "complete", counting)
    monkeypatch.setattr(refine, "AT_ONCE", 8)
    assert torch.equal(tokenizer.encode(images[:3], refine=20), expected)
    assert max(painted) == 8


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_no_picture_is_painted_worse_and_most_better(
    config: TokenizerConfig, images: Tensor, kind: QuantizerConfig
) -> None:
    tokenizer = build(config.model_copy(update={"quantizer": kind}), images)
    before = error(tokenizer, tokenizer.encode(images), images)
    after = error(tokenizer, tokenizer.encode(images, refine=4), images)
    assert bool((after <= before * (1 + 1e-5)).all())
    assert float((after < before * 0.999).float().mean()) > 0.9


def test_prefixes_gain_as_well(config: TokenizerConfig, images: Tensor) -> None:
    tokenizer = build(config, images)
    before, after = tokenizer.encode(images), tokenizer.encode(images, refine=4)
    for k in range(1, config.tokens):
        assert error(tokenizer, after[:, :k], images).mean() < error(tokenizer, before[:, :k], images).mean()


def test_it_depends_neither_on_the_company_nor_on_the_mode_nor_on_luck(config: TokenizerConfig, images: Tensor) -> None:
    tokenizer = build(config, images)
    together = tokenizer.encode(images, refine=5)
    torch.manual_seed(1)
    alone = torch.cat([tokenizer.encode(image[None], refine=5) for image in images])
    torch.testing.assert_close(together, alone)
    with torch.inference_mode():
        torch.testing.assert_close(together, tokenizer.encode(images.clone(), refine=5))


def test_the_tokenizer_stays_as_it_is(config: TokenizerConfig, images: Tensor) -> None:
    tokenizer = build(config.model_copy(update={"quantizer": VQConfig(codebook_size=32)}), images)
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    tokenizer.encode(images, refine=3)
    for name, tensor in tokenizer.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in tokenizer.parameters())


def test_a_negative_number_is_refused(config: TokenizerConfig, images: Tensor) -> None:
    with pytest.raises(UserError, match="refine must be 0 or more, got -1"):
        build(config, images).encode(images, refine=-1)
