"""The GPT over sequences of 36 codes: x-transformers' decoder, and how it is asked.

What is special: the condition is the first token. The vocabulary is the codebook, then one token that
means "any picture" and begins an unconditional sentence, then one token for each class.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from x_transformers import Decoder, TransformerWrapper

from svq.errors import UserError
from svq.generator.config import GeneratorConfig
from svq.generator.sampling import Schedule, TopK, by_position, code_probabilities, draw, image_noise
from svq.training.checkpoint import load_model, save_model

Cache = Any  # x-transformers' LayerIntermediates


class Generator(nn.Module):
    """Writes sequences of codes, of any picture or of a class."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.anything = config.codebook_size  # the token that begins an unconditional sentence
        self.net = TransformerWrapper(
            num_tokens=config.codebook_size + 1 + len(config.classes),
            max_seq_len=config.tokens,
            logits_dim=config.codebook_size,
            emb_dropout=config.dropout,
            attn_layers=Decoder(
                dim=config.width,
                depth=config.depth,
                heads=config.heads,
                attn_dim_head=config.width // config.heads,
                attn_flash=True,
                attn_dropout=config.dropout,
                ff_dropout=config.dropout,
            ),
        )

    def condition(self, labels: Tensor) -> Tensor:
        """Return the first token (B,) of labels (B,): an index into the classes, or -1 for any picture."""
        return self.anything + 1 + labels

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Return the logits (B, 36, codebook) of each code given those before it.

        Args:
            codes: (B, 36) int64.
            labels: (B,) int64, an index into the classes, or -1 for any picture.
        """
        tokens = torch.cat([self.condition(labels)[:, None], codes[:, :-1]], dim=1)  # (B, 36)
        return self.net(tokens)

    def loss(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of the next code in nats, a scalar."""
        return F.cross_entropy(self(codes, labels).flatten(0, 1), codes.flatten())

    def prefill(self, labels: Tensor, prefix: Tensor) -> tuple[Tensor, Cache]:
        """Read the condition and a prefix (B, k); return the next code's logits (B, codebook) and a cache."""
        tokens = torch.cat([self.condition(labels)[:, None], prefix], dim=1)  # (B, 1 + k)
        logits, cache = self.net(tokens, return_intermediates=True)
        return logits[:, -1], cache

    def decode_next(self, code: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Read one more code (B,); return the logits (B, codebook) of the one after it and the cache."""
        logits, cache = self.net(code[:, None], cache=cache, input_not_include_cache=True, return_intermediates=True)
        return logits[:, -1], cache

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        labels: Tensor | None = None,
        prefix: Tensor | None = None,
        temperature: Schedule = 1.0,
        top_k: TopK = None,
        top_p: Schedule = 1.0,
        min_p: Schedule = 0.0,
        guidance: Schedule = 1.0,
        first: int = 0,
    ) -> Tensor:
        """Write `n` sentences of codes, (n, 36) int64.

        The randomness of image ``first + i`` depends on the seed and on its number alone: it is the same
        in a batch of any size.

        Args:
            n: how many, all in one batch.
            seed: the seed of all images.
            labels: (n,) int64, classes to draw, -1 for any; None means any.
            prefix: (n, k) int64, the codes that each sentence begins with.
            temperature: 0 takes the likeliest code. This and all below: one number, or one for each position.
            top_k: keep only the k likeliest codes.
            top_p: keep the likeliest codes that together reach this probability (arXiv:1904.09751).
            min_p: keep codes of at least this share of the likeliest one's probability (arXiv:2407.01082).
            guidance: scale of classifier-free guidance (arXiv:2207.12598); 1 is none. Needs labels.
            first: number of the first image.

        Raises:
            UserError: an argument is out of range.
        """
        device, tokens = next(self.parameters()).device, self.config.tokens
        labels = torch.full((n,), -1) if labels is None else labels
        prefix = torch.empty((n, 0), dtype=torch.int64) if prefix is None else prefix
        self._check(n, labels, prefix)
        temperatures, top_ps, min_ps = (by_position(one, tokens) for one in (temperature, top_p, min_p))
        top_ks = [None] * tokens if top_k is None else by_position(top_k, tokens)
        scales = by_position(guidance, tokens)
        guided = any(scale != 1 for scale in scales)
        if guided and bool((labels < 0).all()):
            raise UserError("guidance needs a class to guide to; give --class, or labels")
        labels, codes = labels.to(device), prefix.to(device, torch.int64)
        noise = image_noise(seed, first, n, tokens).to(device)  # (n, 36)
        if guided:  # the second half of the batch has no condition
            labels = torch.cat([labels, torch.full_like(labels, -1)])

        def both(x: Tensor) -> Tensor:
            return torch.cat([x, x]) if guided else x

        start = codes.shape[1]
        if start == tokens:
            return codes.cpu()
        logits, cache = self.prefill(labels, both(codes))
        for i in range(start, tokens):
            if guided:
                conditional, free = logits.chunk(2)
                logits = free + scales[i] * (conditional - free)
            probabilities = code_probabilities(logits, temperatures[i], top_ks[i], top_ps[i], min_ps[i])
            code = draw(probabilities, noise[:, i])  # (n,)
            codes = torch.cat([codes, code[:, None]], dim=1)
            if i + 1 < tokens:
                logits, cache = self.decode_next(both(code), cache)
        return codes.cpu()

    def _check(self, n: int, labels: Tensor, prefix: Tensor) -> None:
        classes, size, tokens = len(self.config.classes), self.config.codebook_size, self.config.tokens
        if self.training:
            raise UserError("sampling in training mode would drop units at random; call .eval() first")
        if labels.shape != (n,) or (n and not (int(labels.min()) >= -1 and int(labels.max()) < classes)):
            raise UserError(f"expected {n} labels from -1 to {classes - 1}, got {labels.tolist()[:8]}")
        if prefix.ndim != 2 or len(prefix) != n or prefix.shape[1] > tokens:
            raise UserError(f"expected a prefix of shape ({n}, k <= {tokens}), got {tuple(prefix.shape)}")
        if prefix.is_floating_point():
            raise UserError(f"expected the codes of a prefix to be integers, got {prefix.dtype}")
        prefix = prefix.long()  # files of codes have uint16, of which torch has no minimum
        if prefix.numel() and not (int(prefix.min()) >= 0 and int(prefix.max()) < size):
            raise UserError(f"the codes of a prefix must lie in [0, {size})")

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "Generator":
        """Load the averaged weights of a run, a checkpoint or a saved model, ready for use on the CPU."""
        return load_model(path, lambda config: cls(GeneratorConfig.model_validate(config))).eval()

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``manifest.json`` into a folder."""
        save_model(path, self, self.config.model_dump(mode="json"))
