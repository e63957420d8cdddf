"""The presets, and the full size as it is specified."""

import pytest
import torch

from svq.tokenizer import StyledTokenizer
from svq.tokenizer.layers import StyledLayer
from svq.tokenizer.presets import PRESETS

SIZES = {"nano": 32, "tiny": 64, "small": 128, "base": 256, "seed": 256}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_36_tokens_and_18_styled_layers(name: str) -> None:
    config = PRESETS[name]().model
    with torch.device("meta"):
        model = StyledTokenizer(config)
    assert config.image_size == SIZES[name]
    assert config.tokens == 36
    assert sum(isinstance(m, StyledLayer) for m in model.modules()) == 18


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def test_the_full_size_has_the_parameters_that_its_shapes_ask_for() -> None:
    with torch.device("meta"):
        model = StyledTokenizer(PRESETS["seed"]().model)
    e, d, tokens, patches, latent = 1024, 768, 36, 256, 4

    def plain(width: int) -> int:
        return (
            4 * width
            + linear(width, 3 * width)
            + linear(width, width)
            + linear(width, 4 * width)
            + linear(4 * width, width)
        )

    encoder = linear(3 * 16 * 16, e) + (patches + tokens) * e + 24 * plain(e) + 2 * e + 2 * linear(e, latent)
    # A styled layer has, for each of two styles: W, the norm of the style, and the modulation of the norm of x.
    styled = plain(d) - 4 * d + 2 * (d * d + 2 * d + linear(d, 2 * d))
    decoder = linear(latent, d) + (2 * tokens + patches) * d + 18 * styled + 6 * plain(d)
    decoder += 2 * d + linear(d, 3 * 16 * 16) + linear(3 * 9, 3)
    assert encoder == 303_406_088
    # A look is an encoder's layer whose keys and values come from the patches of both, queries from placeholders, too.
    look = plain(e) - linear(e, 3 * e) + linear(e, e) + linear(e, 2 * e) + 2 * d + 2 * d * e + linear(d, e)
    encoder += 6 * look + 2 * e
    assert sum(p.numel() for p in model.encoder.parameters()) == encoder
    assert sum(p.numel() for p in model.decoder.parameters()) == decoder
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder


@pytest.mark.slow
def test_the_full_size_takes_a_step() -> None:
    torch.manual_seed(0)
    model = StyledTokenizer(PRESETS["seed"]().model).train()
    images = torch.rand(2, 3, 256, 256) * 2 - 1
    result = model(images)
    loss = (result.images - images).square().mean() + 1e-6 * result.posterior.kl()
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if name != "decoder.null":  # nothing was truncated
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
