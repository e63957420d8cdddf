"""A small quantizer of each kind."""

from svq.tokenizer.config import FSQConfig, KMeansConfig, LFQConfig, QuantizerConfig, SimVQConfig, VQConfig

KINDS: list[QuantizerConfig] = [
    VQConfig(codebook_size=32, dim=4),
    FSQConfig(levels=(8, 5, 4)),
    SimVQConfig(codebook_size=32, dim=4),
    LFQConfig(bits=5),
    KMeansConfig(codebook_size=32, dim=4),
]
