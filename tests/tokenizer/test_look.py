"""The encoder looks at what is painted so far: what it sees, and what that changes."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import QuantizerConfig, TokenizerConfig
from svq.tokenizer.decoder import StyledDecoder
from svq.tokenizer.look import Look
from svq.training.checkpoint import save_model
from tests.tokenizer.kinds import KINDS


def randomised(module: torch.nn.Module) -> None:
    rng = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.2, generator=rng)


def by_hand(look: Look, queries: Tensor, patches: Tensor, painting: Tensor) -> Tensor:
    """One picture, head by head: queries (g, D), patches (P, D), painting (g + P, D')."""
    painting = look.painting_norm(painting)
    x = queries + look.placeholder(painting[: len(queries)])
    places = torch.cat([patches, painting[len(queries) :]], dim=1)  # (P, D + D'): picture and painting side by side
    weight = torch.cat([look.picture_kv.weight, look.painting_kv.weight], dim=1)
    kv = places @ weight.T + look.picture_kv.bias
    q = look.query(look.query_norm(x))
    size = q.shape[1] // look.heads
    seen = []
    for head in range(look.heads):
        here = slice(head * size, (head + 1) * size)
        k, v = kv[:, : q.shape[1]][:, here], kv[:, q.shape[1] :][:, here]
        seen.append(torch.softmax(q[:, here] @ k.T * size**-0.5, dim=-1) @ v)
    x = x + look.out(torch.cat(seen, dim=1))
    return x + look.mlp.down(F.gelu(look.mlp.up(look.mlp_norm(x))))


def test_a_look_equals_its_plain_transcription() -> None:
    look = Look(width=8, decoder_width=6, heads=2, mlp_ratio=2).double()
    randomised(look)
    queries, patches, painting = (torch.randn(3, n, d).double() for n, d in ((4, 8), (9, 8), (13, 6)))
    expected = torch.stack([by_hand(look, *one) for one in zip(queries, patches, painting, strict=True)])
    torch.testing.assert_close(look(queries, patches, painting), expected)


@pytest.mark.parametrize(("size", "ahead"), [(2, None), (4, None), (8, None), (2, 1), (2, 2), (4, 2), (4, 3)])
def test_painting_in_groups_is_painting(config: TokenizerConfig, size: int, ahead: int | None) -> None:
    decoder = StyledDecoder(config.model_copy(update={"ahead": ahead}))
    randomised(decoder)
    latents = torch.randn(4, 8, config.latent_dim)
    for keep in (None, torch.tensor([1, 4, 5, 8])):
        x = decoder.blank(4)
        for first in range(0, 8, size):
            assert decoder.painting(x, first, size).shape == (4, size + config.patches, config.decoder_width)
            painted = decoder.complete(x.clone(), latents[:, first:], first, keep)
            torch.testing.assert_close(painted, decoder(latents, keep))
            x = decoder.style(x, latents[:, first : first + size], first, keep)


def test_a_look_sees_the_placeholders_whose_turn_comes(config: TokenizerConfig) -> None:
    decoder = StyledDecoder(config.model_copy(update={"ahead": 2}))
    randomised(decoder)
    always = StyledDecoder(config.model_copy(update={"ahead": None}))
    always.load_state_dict(decoder.state_dict())
    latents = torch.randn(3, 4, config.latent_dim)
    before = decoder.painting(decoder.blank(3), 0, 4)
    assert torch.equal(before, always.painting(always.blank(3), 0, 4))
    after = decoder.painting(decoder.style(decoder.blank(3), latents, 0), 4, 4)
    # Of eight placeholders the last two are no tokens of the first layer of four, so that one sees less.
    assert not torch.equal(after, always.painting(always.style(always.blank(3), latents, 0), 4, 4))
    assert (after[:, :4] - decoder.placeholders[:, 4:]).abs().amax((0, 2)).min() > 1e-3  # each has been in a layer


@pytest.mark.parametrize("ahead", [None, 2])
def test_later_latents_know_what_earlier_ones_painted(config: TokenizerConfig, ahead: int | None) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config.model_copy(update={"ahead": ahead})).eval()  # two looks, four latents each
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    before = tokenizer.latents(images)
    tokenizer.decoder.condition.weight.data.neg_()  # all else is as it was, but the painting
    after = tokenizer.latents(images)
    assert torch.equal(after[:, :4], before[:, :4])
    assert ((after[:, 4:] - before[:, 4:]).abs().amax((0, 2)) > 0).all()


def test_a_blind_encoder_knows_nothing_of_the_painting(config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config.model_copy(update={"looks": 0})).eval()
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    before = tokenizer.latents(images)
    randomised(tokenizer.decoder)
    assert torch.equal(tokenizer.latents(images), before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_what_is_encoded_is_what_was_looked_at(kind: QuantizerConfig, config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config.model_copy(update={"quantizer": kind}))
    images = torch.rand(32, 3, 16, 16) * 2 - 1
    tokenizer.train()(images, torch.randn(32, 8, kind.dim), quantized=False)  # statistics of the latents
    tokenizer.eval()
    with torch.no_grad():
        if not tokenizer.quantizer.started:
            tokenizer.quantizer.start(tokenizer.latents(images))
        painted = tokenizer(images).images.clamp(-1, 1)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images)), painted)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_quantizer_learns_from_all_latents_of_a_step_at_once(kind: QuantizerConfig, config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config.model_copy(update={"quantizer": kind}))
    images = torch.rand(32, 3, 16, 16) * 2 - 1
    tokenizer.quantizer.start(tokenizer.eval().latents(images))
    by_hand = copy.deepcopy(tokenizer.quantizer).train()
    seen: list[Tensor] = []
    learn = tokenizer.quantizer.learn
    tokenizer.quantizer.learn = lambda latents: (seen.append(latents), learn(latents))[1]  # type: ignore[method-assign]
    torch.manual_seed(1)  # dead codes are drawn anew
    loss = tokenizer.train()(images).quantizer_loss
    (latents,) = seen
    assert latents.shape == (32, 8, kind.dim)
    torch.manual_seed(1)
    torch.testing.assert_close(loss, by_hand.learn(latents))
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(tokenizer.quantizer.state_dict()[name], value, equal_nan=True)
    assert tokenizer(images, quantized=False).quantizer_loss == 0
    assert len(seen) == 1


def test_earlier_latents_learn_from_what_later_ones_saw(config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    tokenizer = StyledTokenizer(config)
    randomised(tokenizer.decoder)  # else styles begin at nothing
    result = tokenizer(torch.rand(4, 3, 16, 16) * 2 - 1)
    result.posterior.mean[:, 4:].square().sum().backward()
    assert tokenizer.encoder.looks[0].out.weight.grad is not None
    assert tokenizer.encoder.looks[0].out.weight.grad.any()
    assert tokenizer.decoder.condition.weight.grad.any()


def test_a_tokenizer_from_before_there_were_looks_is_blind(config: TokenizerConfig, tmp_path: Path) -> None:
    blind = StyledTokenizer(config.model_copy(update={"looks": 0})).eval()
    written = blind.config.model_dump(mode="json")
    del written["looks"]
    save_model(tmp_path / "old", blind, written)
    loaded = StyledTokenizer.from_pretrained(tmp_path / "old")
    assert not loaded.config.looks
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(images), blind.encode(images))


def test_a_tokenizer_from_before_ahead_keeps_all_tokens(config: TokenizerConfig, tmp_path: Path) -> None:
    old = StyledTokenizer(config.model_copy(update={"ahead": None})).eval()
    written = old.config.model_dump(mode="json")
    del written["ahead"]
    save_model(tmp_path / "old", old, written)
    loaded = StyledTokenizer.from_pretrained(tmp_path / "old")
    assert loaded.config.ahead is None
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(images), old.encode(images))


def test_queries_wait_for_their_looks_where_placeholders_do(config: TokenizerConfig) -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    for looks, ahead, latents in ((2, None, 8), (2, 2, 0), (0, 2, 8)):
        tokenizer = StyledTokenizer(config.model_copy(update={"looks": looks, "ahead": ahead})).eval()
        assert tokenizer.encoder.features(images).shape[1] == config.patches + latents
        assert tokenizer.encode(images).shape == (3, 8)


def test_placeholders_must_be_there_for_the_look_that_sees_them(config: TokenizerConfig) -> None:
    with pytest.raises(ValidationError, match=r"ahead 1 is too small for looks 2.*model\.ahead to 2 or more"):
        TokenizerConfig.model_validate({**config.model_dump(), "looks": 2, "ahead": 1})
    assert TokenizerConfig.model_validate({**config.model_dump(), "looks": 0, "ahead": 1}).ahead == 1


def test_looks_must_divide_the_layers(config: TokenizerConfig) -> None:
    with pytest.raises(ValidationError, match=r"looks 3 does not divide 4 .* model\.looks to 0, 1, 2, 4"):
        TokenizerConfig.model_validate({**config.model_dump(), "looks": 3})
