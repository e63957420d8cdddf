"""Stage two: a GPT that writes sentences of codes, its sampler and its training step."""

from svq.generator.model import Generator

__all__ = ["Generator"]
