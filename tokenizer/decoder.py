"""The styled decoder: 36 latents paint a picture.

What is special: its input is learned and the same for every picture. All it knows of a picture comes in
through the conditions, two in each styled layer, in the order of the tokens. That is what orders them. And because
each condition has a layer of its own, its placeholder is needed among the tokens only until then.
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
        self.tokens, self.patches = config.tokens, config.patches
        self.ahead = config.ahead
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
        return self.complete(self.blank(len(latents)), latents, first=0, keep=keep)

    # The same, group by group, for an encoder that looks on.

    def blank(self, batch: int) -> Tensor:
        """Return the tokens (B, n + P, D) that every painting begins with: the first n placeholders, the patches."""
        x = torch.cat([self.placeholders[:, : self._present(-1).stop], self.positions], dim=1)  # (1, n + P, D)
        return x.repeat(batch, 1, 1)

    def painting(self, x: Tensor, first: int, count: int) -> Tensor:
        """Return of all tokens the next placeholders, `count` of them, and the patches (B, count + P, D), as a copy."""
        first -= self._present(first // 2 - 1).start
        return torch.cat([x[:, first : first + count], x[:, -self.patches :]], dim=1)

    def style(self, x: Tensor, latents: Tensor, first: int, keep: Tensor | None = None) -> Tensor:
        """Paint on tokens (B, n + P, D) with latents (B, g, d), g even, those from position `first` on; return tokens.

        Those that were given are not to be used again: they may have been changed in place.
        """
        return self._style(x, self._conditions(latents, keep, first), first)

    def complete(self, x: Tensor, latents: Tensor, first: int, keep: Tensor | None = None) -> Tensor:
        """Paint on with latents (B, k - first, d), those from position `first` on, and return pictures (B, 3, S, S).

        As `style`, it may change the tokens in place.
        """
        c = self._conditions(latents, keep, first)  # (B, k - first, D)
        null = self.null[:, first + c.shape[1] :].expand(len(c), -1, -1)  # (B, 36 - k, D)
        x = self._style(x, torch.cat([c, null], dim=1), first)  # (B, n + P, D)
        for layer in self.plain:
            x = run(layer, x, recompute=self.recompute)
        x = self.pixels(self.norm(x[:, -self.patches :]))  # (B, P, 3 p p)
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

    def _present(self, layer: int) -> range:
        """Return which placeholders are among the tokens of a styled layer, or of what comes before the first, -1.

        Those of the last layer stay, for the plain ones after it.
        """
        if self.ahead is None:
            return range(self.tokens)
        return range(max(0, 2 * layer), min(self.tokens, 2 * (layer + 1 + self.ahead)))

    def _style(self, x: Tensor, c: Tensor, first: int) -> Tensor:
        for i in range(first, first + c.shape[1], 2):
            two = c[:, i - first : i - first + 2]  # (B, 2, D)
            before, now = self._present(i // 2 - 1), self._present(i // 2)
            if now != before:
                stay, patches = x[:, now.start - before.start : len(before)], x[:, len(before) :]
                join = self.placeholders[:, before.stop : now.stop].expand(len(x), -1, -1)
                x = torch.cat([stay, join, patches], dim=1)  # (B, n + P, D)
            own = i - now.start
            # In place: no node of the graph has saved this version of x, and a copy costs as much as a norm.
            x[:, own : own + 2] += two
            x = run(self.styled[i // 2], x, two, own, recompute=self.recompute)
        return x
