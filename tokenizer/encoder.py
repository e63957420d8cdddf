"""The encoder: a picture goes in, 36 Gaussian latents come out.

What is special: the latents are read from learned query tokens appended to the patches, so that each of
them may look at the whole picture (as in TiTok, Yu et al. 2024, arXiv:2406.07550). Where the tokenizer has
looks, the queries of each group of latents see what is painted from the groups before it, too.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.layers import PlainLayer, run
from svq.tokenizer.look import Look

LOG_VARIANCE_RANGE = (-30.0, 20.0)  # keeps exp() finite in fp32 and bf16


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents (Kingma and Welling 2013, arXiv:1312.6114)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """Return ``mean + std * eps``, (B, 36, d), for `eps` drawn from the standard normal."""
        return self.mean + torch.exp(0.5 * self.log_variance) * eps

    def kl(self) -> Tensor:
        """Return the divergence from the standard normal in nats per latent value, a scalar."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean()


class Encoder(nn.Module):
    """Picture (B, 3, S, S) in [-1, 1] -> posterior over latents (B, 36, d)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.tokens, self.patches = config.tokens, config.patches
        self.queries_wait = config.looks > 0 and config.ahead is not None  # each for its look
        self.recompute = False  # activation checkpointing
        self.input = nn.Conv2d(3, width, kernel_size=config.patch_size, stride=config.patch_size)
        self.positions = nn.Parameter(torch.empty(1, config.patches, width))
        self.queries = nn.Parameter(torch.empty(1, config.tokens, width))
        self.layers = nn.ModuleList(
            PlainLayer(width, config.encoder_heads, config.mlp_ratio) for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.looks = nn.ModuleList(
            Look(width, config.decoder_width, config.encoder_heads, config.mlp_ratio) for _ in range(config.looks)
        )
        self.look_norm = nn.LayerNorm(width) if config.looks else nn.Identity()
        self.mean = nn.Linear(width, config.latent_dim)
        self.std = nn.Linear(width, config.latent_dim)

    def forward(self, images: Tensor) -> Posterior:
        """Encode all latents at once, unseen; of an encoder that has no looks."""
        assert not self.looks
        return self._heads(self.features(images)[:, -self.tokens :])

    def features(self, images: Tensor) -> Tensor:
        """Return what is seen in pictures (B, 3, S, S), by patch (B, P, D), and, if queries do not wait, by latent.

        The latter follow the patches: (B, P + 36, D).
        """
        x = self.input(images).flatten(2).transpose(1, 2) + self.positions  # (B, P, D)
        if not self.queries_wait:
            x = torch.cat([x, self.queries.expand(len(x), -1, -1)], dim=1)  # (B, P + 36, D)
        for layer in self.layers:
            x = run(layer, x, recompute=self.recompute)
        return self.norm(x)

    def look(self, features: Tensor, painting: Tensor, number: int) -> Posterior:
        """Encode the next group of latents.

        Args:
            features: (B, P, D) or (B, P + 36, D), from `features`.
            painting: (B, g + P, D'), from `StyledDecoder.painting`.
            number: which look this is, counted from 0.
        """
        patches, queries = features[:, : self.patches], features[:, self.patches :]
        if self.queries_wait:
            queries = self.queries.expand(len(features), -1, -1)
        queries = queries.chunk(len(self.looks), dim=1)[number]  # (B, g, D)
        return self._heads(
            self.look_norm(run(self.looks[number], queries, patches, painting, recompute=self.recompute))
        )

    def _heads(self, x: Tensor) -> Posterior:
        return Posterior(self.mean(x), self.std(x).clamp(*LOG_VARIANCE_RANGE))
