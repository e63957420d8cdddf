"""The styled decoder follows its equations, and paints from prefixes."""

import pytest
import torch
from torch import Tensor

from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.decoder import StyledDecoder
from tests.tokenizer import reference


def randomised(config: TokenizerConfig) -> StyledDecoder:
    """A decoder in which no weight is zero, so that no term of the equations can hide."""
    decoder = StyledDecoder(config)
    rng = torch.Generator().manual_seed(0)
    for parameter in decoder.parameters():
        parameter.data.normal_(std=0.2, generator=rng)
    return decoder


def by_reference(decoder: StyledDecoder, config: TokenizerConfig, latents: Tensor) -> Tensor:
    return reference.decode(
        dict(decoder.named_parameters()),
        latents,
        tokens=config.tokens,
        plain_layers=config.plain_layers,
        heads=config.decoder_heads,
        side=config.image_size // config.patch_size,
        patch=config.patch_size,
        convolve=decoder.output,
        ahead=config.ahead,
    )


@pytest.mark.parametrize("tokens", [8, 36])
@pytest.mark.parametrize("kept", [0, 5, None])
@pytest.mark.parametrize("ahead", [None, 1, 3])
def test_equals_the_plain_transcription_in_pictures_and_gradients(
    config: TokenizerConfig, tokens: int, kept: int | None, ahead: int | None
) -> None:
    config = config.model_copy(update={"tokens": tokens, "ahead": ahead})
    decoder = randomised(config).double()
    latents = torch.randn(3, tokens if kept is None else kept, config.latent_dim, dtype=torch.float64)
    target = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    results = []
    for paint in (decoder, lambda z: by_reference(decoder, config, z)):
        z = latents.clone().requires_grad_()
        decoder.zero_grad()
        images = paint(z)
        (images - target).square().mean().backward()
        gradients = {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}
        results.append((images.detach(), z.grad, gradients))
    (images, z_grad, gradients), (images_r, z_grad_r, gradients_r) = results
    torch.testing.assert_close(images, images_r, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(z_grad, z_grad_r, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == gradients_r.keys() == dict(decoder.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients_r[name], atol=1e-5, rtol=1e-5, msg=name)


def test_single_precision_equals_the_transcription_to_1e_5(config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    decoder = StyledDecoder(config)
    for parameter in decoder.parameters():
        parameter.data.normal_(std=0.1)
    latents = torch.randn(4, config.tokens, config.latent_dim)
    torch.testing.assert_close(decoder(latents), by_reference(decoder, config, latents), atol=1e-5, rtol=1e-5)


def test_a_prefix_is_the_same_as_keeping_the_first_codes(config: TokenizerConfig) -> None:
    decoder = randomised(config)
    latents = torch.randn(4, config.tokens, config.latent_dim)
    keep = torch.tensor([0, 1, 5, config.tokens])
    kept = decoder(latents, keep)
    for row, k in enumerate(keep.tolist()):
        torch.testing.assert_close(kept[row], decoder(latents[row : row + 1, :k])[0], atol=1e-5, rtol=1e-4)


def test_a_placeholder_is_a_token_up_to_its_layer_alone(config: TokenizerConfig) -> None:
    lengths: dict[int | None, list[int]] = {None: [], 3: []}
    for ahead, seen in lengths.items():
        decoder = randomised(config.model_copy(update={"tokens": 36, "ahead": ahead}))
        for layer in [*decoder.styled, *decoder.plain]:
            layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape[1]))
        decoder(torch.randn(1, 36, config.latent_dim))
    assert [n - config.patches for n in lengths[3]] == [*15 * [8], 6, 4, 2, 2]
    assert [n - config.patches for n in lengths[None]] == 19 * [36]


@pytest.mark.parametrize("ahead", [None, 1])
def test_every_condition_changes_the_picture(config: TokenizerConfig, ahead: int | None) -> None:
    decoder = randomised(config.model_copy(update={"ahead": ahead}))
    latents = torch.randn(1, config.tokens, config.latent_dim)
    before = decoder(latents)
    for i in range(config.tokens):
        changed = latents.clone()
        changed[:, i] += 1
        assert (decoder(changed) - before).abs().max() > 1e-4, i


def test_the_start_is_the_one_that_keeps_late_codes_alive(config: TokenizerConfig) -> None:
    torch.manual_seed(0)
    config = config.model_copy(update={"tokens": 36, "decoder_width": 64, "encoder_width": 64, "encoder_depth": 3})
    model = StyledTokenizer(config)
    decoder = model.decoder
    for layer in decoder.styled:
        for zero in (layer.style1, layer.style2, layer.norm1.modulation, layer.norm2.modulation):
            assert zero.weight.abs().max() == 0
    for part, layers, branches in (
        (decoder, [*decoder.styled, *decoder.plain], 2 * (18 + config.plain_layers)),
        (model.encoder, [*model.encoder.layers], 2 * 3),
    ):
        for layer in layers:
            for matrix, share in (
                (layer.attention.qkv, 1),
                (layer.mlp.up, 1),
                (layer.attention.out, branches),
                (layer.mlp.down, branches),
            ):
                xavier = (2 / (matrix.in_features + matrix.out_features)) ** 0.5
                assert matrix.weight.std().item() == pytest.approx(xavier * share**-0.5, rel=0.05)
        tokens = [p for name, p in part.named_parameters() if name.rsplit(".")[-1] in ("positions", "queries", "null")]
        assert tokens
        assert all(p.std().item() == pytest.approx(0.02, rel=0.25) for p in tokens)
    painted = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(decoder.output(painted), painted)
