"""Stage one: the styled VAE, its quantizers, its presets and its training step."""

from svq.tokenizer.model import StyledTokenizer

__all__ = ["StyledTokenizer"]
