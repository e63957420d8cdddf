"""Presets: a tokenizer of each size, with a training configuration that suits it. All have 36 tokens."""

from collections.abc import Callable

from svq.tokenizer.config import KMeansConfig, TokenizerConfig, TokenizerSettings, TokenizerTrainConfig
from svq.training.config import OptimizerConfig


def nano() -> TokenizerSettings:
    """32 px, for the quickstart: minutes on a CPU."""
    model = TokenizerConfig(
        image_size=32,
        patch_size=8,
        encoder_width=96,
        encoder_depth=4,
        encoder_heads=3,
        looks=6,
        ahead=3,
        decoder_width=96,
        decoder_heads=3,
        plain_layers=1,
        mlp_ratio=2.0,
        quantizer=KMeansConfig(),
    )
    train = TokenizerTrainConfig(
        images=60_000,
        continuous_share=0.8,  # k-means on a nearly finished VAE, and a fifth of the run to get used to its codes
        batch_size=32,  # a short run has few steps: half the batch is worth 0.3 dB
        evaluation_images=256,
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3),
    )
    return TokenizerSettings(model=model, train=train)


def tiny() -> TokenizerSettings:
    """64 px: half an hour on a GPU, a day or more on two CPU cores."""
    model = TokenizerConfig(
        image_size=64,
        patch_size=8,
        encoder_width=256,
        encoder_depth=6,
        encoder_heads=4,
        looks=6,
        ahead=3,
        decoder_width=256,
        decoder_heads=4,
        plain_layers=2,
        mlp_ratio=4.0,
    )
    train = TokenizerTrainConfig(
        images=1_000_000,
        evaluate_every=50_000,
        save_every=50_000,
        optimizer=OptimizerConfig(name="muon", learning_rate=2e-3),
    )
    return TokenizerSettings(model=model, train=train)


def small() -> TokenizerSettings:
    """128 px, for a GPU; the shape is settled, training it is not."""
    model = TokenizerConfig(
        image_size=128,
        patch_size=16,
        encoder_width=512,
        encoder_depth=12,
        encoder_heads=8,
        looks=6,
        ahead=3,
        decoder_width=384,
        decoder_heads=6,
        plain_layers=4,
    )
    return TokenizerSettings(model=model, train=_full_size(images=20_000_000, learning_rate=3e-4))


def base() -> TokenizerSettings:
    """256 px, for several GPUs one day; the shape is settled, training it is not."""
    model = TokenizerConfig(
        image_size=256,
        patch_size=16,
        encoder_width=768,
        encoder_depth=12,
        encoder_heads=12,
        looks=6,
        ahead=3,
        decoder_width=512,
        decoder_heads=8,
        plain_layers=6,
    )
    return TokenizerSettings(model=model, train=_full_size(images=50_000_000, learning_rate=2e-4))


def seed() -> TokenizerSettings:
    """256 px, the full size: encoder 24 x 1024, decoder 18 + 6 x 768, patch 16."""
    return TokenizerSettings(
        model=TokenizerConfig(looks=6, ahead=3),
        train=_full_size(images=200_000_000, learning_rate=1e-4).model_copy(update={"recompute": True}),
    )


def _full_size(images: int, learning_rate: float) -> TokenizerTrainConfig:
    return TokenizerTrainConfig(
        images=images,
        batch_size=256,
        evaluate_every=1_000_000,
        save_every=1_000_000,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=learning_rate, final_share=0.1, betas=(0.9, 0.99), weight_decay=0.05
        ),
    )


PRESETS: dict[str, Callable[[], TokenizerSettings]] = {p.__name__: p for p in (nano, tiny, small, base, seed)}
