"""The styled decoder: 36 latents paint a picture.

What is special: its input is learned and the same for every picture. All it knows of a picture comes in
through the conditions, two in each styled layer, in the order of the tokens. That is what orders them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.layers import PlainLayer, StyledLayer, run


class StyledDecoder(nn.Module):
    """Latents (B, k, d), k <= 36 -> picture (B, 3, S, S); its values are meant to be in [-1, 1]."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.patch_size = config.patch_size
        self.side = config.image_size // config.patch_size
        self.tokens = config.tokens
        self.recompute = False  # activation checkpointing
        self.condition = nn.Linear(config.latent_dim, width)
        self.null = nn.Parameter(torch.empty(1, config.tokens, width))
        self.placeholders = nn.Parameter(torch.empty(1, config.tokens, width))
        self.positions = nn.Parameter(torch.empty(1, config.patches, width))
        self.styled = nn.ModuleList(
            StyledLayer(width, config.decoder_heads, config.mlp_ratio) for _ in range(config.tokens // 2)
        )
        self.plain = nn.ModuleList(
            PlainLayer(width, config.decoder_heads, config.mlp_ratio) for _ in range(config.plain_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, 3 * config.patch_size**2)
        self.output = nn.Conv2d(3, 3, kernel_size=3, padding=1)

    def forward(self, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        """Decode a prefix of latents.

        Args:
            latents: (B, k, d), the first k latents of each picture; k = 0 decodes the null conditions alone.
            keep: (B,) int64; of sample b, only the first ``keep[b]`` latents count. None keeps all.

        Returns:
            Pictures (B, 3, S, S). Conditions that are missing are replaced by the learned null.
        """
        c = self._conditions(latents, keep, first=0)  # (B, k, D)
        null = self.null[:, c.shape[1] :].expand(len(c), -1, -1)  # (B, 36 - k, D)
        return self.finish(self._style(self.blank(len(c)), torch.cat([c, null], dim=1), first=0))

    # The same, group by group, for an encoder that looks on.

    def blank(self, batch: int) -> Tensor:
        """Return the tokens (B, 36 + P, D) that every painting begins with."""
        x = torch.cat([self.placeholders, self.positions], dim=1)  # (1, 36 + P, D)
        return x.repeat(batch, 1, 1)

    def painting(self, x: Tensor, first: int, count: int) -> Tensor:
        """Return of all tokens the next placeholders, `count` of them, and the patches (B, count + P, D), as a copy."""
        return torch.cat([x[:, first : first + count], x[:, self.tokens :]], dim=1)

    def style(self, x: Tensor, latents: Tensor, first: int, keep: Tensor | None = None) -> Tensor:
        """Paint on tokens (B, 36 + P, D), in place, with latents (B, g, d), g even, those from position `first` on."""
        return self._style(x, self._conditions(latents, keep, first), first)

    def finish(self, x: Tensor) -> Tensor:
        """Turn tokens (B, 36 + P, D), after all styled layers, into pictures (B, 3, S, S)."""
        for layer in self.plain:
            x = run(layer, x, recompute=self.recompute)
        x = self.pixels(self.norm(x[:, self.tokens :]))  # (B, P, 3 p p)
        x = x.transpose(1, 2).unflatten(2, (self.side, self.side))  # (B, 3 p p, S / p, S / p)
        return self.output(F.pixel_shuffle(x, self.patch_size))  # (B, 3, S, S)

    def _conditions(self, latents: Tensor, keep: Tensor | None, first: int) -> Tensor:
        c = self.condition(latents)  # (B, g, D)
        if keep is None:
            return c
        # Nested dropout: keep a random prefix (Rippel et al. 2014, arXiv:1402.0915).
        positions = torch.arange(first, first + c.shape[1], device=c.device)
        kept = positions < keep[:, None]  # (B, g)
        return torch.where(kept[..., None], c, self.null[:, first : first + c.shape[1]])

    def _style(self, x: Tensor, c: Tensor, first: int) -> Tensor:
        for i in range(first, first + c.shape[1], 2):
            two = c[:, i - first : i - first + 2]  # (B, 2, D)
            # In place: no node of the graph has saved this version of x, and a copy costs as much as a norm.
            x[:, i : i + 2] += two
            x = run(self.styled[i // 2], x, two, i, recompute=self.recompute)
        return x
