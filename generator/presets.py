"""Presets: a GPT to match each tokenizer preset."""

from collections.abc import Callable

from svq.generator.config import GeneratorSettings, GeneratorShape, GeneratorTrainConfig
from svq.training.config import OptimizerConfig


def nano() -> GeneratorSettings:
    """For the quickstart: minutes on a CPU."""
    return GeneratorSettings(
        model=GeneratorShape(width=128, depth=4, heads=4, dropout=0.2),
        train=GeneratorTrainConfig(
            images=60_000,
            batch_size=64,
            evaluate_every=10_000,
            save_every=25_000,
            optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, weight_decay=0.05),
        ),
    )


def tiny() -> GeneratorSettings:
    """Some hours on a CPU."""
    return GeneratorSettings(
        model=GeneratorShape(width=256, depth=6, heads=4, dropout=0.2),
        train=GeneratorTrainConfig(
            images=1_000_000,
            batch_size=64,
            evaluate_every=50_000,
            save_every=100_000,
            optimizer=OptimizerConfig(name="muon", learning_rate=2e-3, weight_decay=0.05),
        ),
    )


def small() -> GeneratorSettings:
    """For a GPU; the shape is settled, training it is not."""
    return _full_size(width=512, depth=12, heads=8, images=20_000_000)


def base() -> GeneratorSettings:
    """For several GPUs one day; the shape is settled, training it is not."""
    return _full_size(width=768, depth=12, heads=12, images=50_000_000)


def seed() -> GeneratorSettings:
    """To match the full-size tokenizer."""
    return _full_size(width=1024, depth=24, heads=16, images=200_000_000)


def _full_size(width: int, depth: int, heads: int, images: int) -> GeneratorSettings:
    return GeneratorSettings(
        model=GeneratorShape(width=width, depth=depth, heads=heads),
        train=GeneratorTrainConfig(
            images=images,
            batch_size=512,
            evaluate_every=1_000_000,
            save_every=1_000_000,
            optimizer=OptimizerConfig(name="adamw", learning_rate=3e-4, final_share=0.1, weight_decay=0.05),
        ),
    )


PRESETS: dict[str, Callable[[], GeneratorSettings]] = {p.__name__: p for p in (nano, tiny, small, base, seed)}
