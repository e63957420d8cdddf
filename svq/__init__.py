"""Styled Vector Quantization: pictures as 36 discrete tokens, ordered from high-level to low-level attributes.

import svq
tokenizer = svq.StyledTokenizer.from_pretrained("runs/tokenizer")
codes = tokenizer.encode(images)          # (B, 36) int64
images = tokenizer.decode(codes)          # (B, 3, S, S) in [-1, 1]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from svq.errors import CheckpointError, ConfigError, DataError, TrainingError, UserError

if TYPE_CHECKING:
    from svq.data import open_images
    from svq.generator import Generator
    from svq.tokenizer import StyledTokenizer

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Generator",
    "StyledTokenizer",
    "TrainingError",
    "UserError",
    "open_images",
]
__version__ = "0.1.0"

# Loaded on first use: `import svq` and `svq --help` must not wait for torch.
_LAZY = {"StyledTokenizer": "svq.tokenizer", "Generator": "svq.generator", "open_images": "svq.data"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'svq' has no attribute '{name}'")
