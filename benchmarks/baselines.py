"""Two other ways to paint from 36 codes: the same encoder, but for looks, or convolutions around a grid.

Both are used like a `StyledTokenizer`: the same quantizer, schedule, losses and loop train them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.encoder import Posterior
from svq.tokenizer.layers import PlainLayer, initialise


class AtOnce(nn.Module):
    """A decoder that all codes enter at once: what is painted on with some of them is those themselves.

    It paints group by group, as a search for better codes asks a `StyledDecoder` to, by painting anew.
    """

    latent_dim: int
    null: nn.Parameter

    def blank(self, batch: int) -> Tensor:
        return self.null.new_zeros(batch, 0, self.latent_dim)

    def style(self, x: Tensor, latents: Tensor, first: int) -> Tensor:
        return torch.cat([x, latents], dim=1)

    def complete(self, x: Tensor, latents: Tensor, first: int) -> Tensor:
        return self(torch.cat([x, latents], dim=1))


class PlainDecoder(AtOnce):
    """The arrangement of TiTok (Yu et al. 2024, arXiv:2406.07550): the codes are ordinary tokens of the input.

    As many layers as the styled decoder has, of the same width.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.patch_size, self.side = config.patch_size, config.image_size // config.patch_size
        self.patches, self.latent_dim = config.patches, config.latent_dim
        self.condition = nn.Linear(config.latent_dim, width)
        self.null = nn.Parameter(torch.empty(1, config.tokens, width))
        self.placeholders = nn.Parameter(torch.empty(1, config.tokens, width))  # position embeddings of the codes
        self.positions = nn.Parameter(torch.empty(1, config.patches, width))
        depth = config.tokens // 2 + config.plain_layers
        self.plain = nn.ModuleList(PlainLayer(width, config.decoder_heads, config.mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, 3 * config.patch_size**2)
        self.output = nn.Conv2d(3, 3, kernel_size=3, padding=1)

    def forward(self, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        c = with_null(self.condition(latents), self.null, keep)  # (B, 36, D)
        x = torch.cat([c + self.placeholders, self.positions.expand(len(c), -1, -1)], dim=1)
        for layer in self.plain:
            x = layer(x)
        x = self.pixels(self.norm(x[:, -self.patches :]))  # (B, P, 3 p p)
        x = x.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.output(F.pixel_shuffle(x, self.patch_size))


def with_null(c: Tensor, null: Tensor, keep: Tensor | None) -> Tensor:
    """Replace the conditions beyond each sample's prefix by the learned null."""
    if keep is not None:
        kept = torch.arange(c.shape[1], device=c.device) < keep[:, None]  # (B, k)
        c = torch.where(kept[..., None], c, null[:, : c.shape[1]])
    return torch.cat([c, null[:, c.shape[1] :].expand(len(c), -1, -1)], dim=1)


class TiTokArrangement(StyledTokenizer):
    """Our encoder and quantizer with a plain decoder."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config.model_copy(update={"looks": 0}))  # all codes enter at once: nothing to look at between
        decoder = PlainDecoder(config)
        initialise(decoder)
        self.decoder = decoder  # type: ignore[assignment]


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class RasterEncoder(nn.Module):
    """Picture -> 48 x 48 -> 24 -> 12 -> a grid of 6 x 6 latents, in raster order."""

    def __init__(self, config: TokenizerConfig, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width // 2, 4, 2, 1), Residual(width // 2),
            nn.Conv2d(width // 2, width, 4, 2, 1), Residual(width),
            nn.Conv2d(width, width, 4, 2, 1), Residual(width), Residual(width),
        )  # fmt: skip
        self.mean = nn.Conv2d(width, config.latent_dim, 1)
        self.std = nn.Conv2d(width, config.latent_dim, 1)

    def forward(self, images: Tensor) -> Posterior:
        x = self.layers(F.interpolate(images, (48, 48), mode="bilinear", align_corners=False))
        mean, std = (head(x).flatten(2).transpose(1, 2) for head in (self.mean, self.std))  # 2 x (B, 36, d)
        return Posterior(mean, std.clamp(-30, 20))


class RasterDecoder(AtOnce):
    """The grid of latents -> 12 x 12 -> 24 -> 48 -> picture."""

    def __init__(self, config: TokenizerConfig, width: int) -> None:
        super().__init__()
        self.size, self.latent_dim = config.image_size, config.latent_dim
        self.condition = nn.Linear(config.latent_dim, width)
        self.null = nn.Parameter(0.02 * torch.randn(1, config.tokens, width))
        self.layers = nn.Sequential(
            Residual(width), Residual(width), nn.ConvTranspose2d(width, width, 4, 2, 1),
            Residual(width), nn.ConvTranspose2d(width, width // 2, 4, 2, 1),
            Residual(width // 2), nn.ConvTranspose2d(width // 2, 3, 4, 2, 1),
        )  # fmt: skip

    def forward(self, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        c = with_null(self.condition(latents), self.null, keep)  # (B, 36, D)
        x = self.layers(c.transpose(1, 2).unflatten(2, (6, 6)))
        return F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)


class RasterVQ(StyledTokenizer):
    """A convolutional autoencoder with a 6 x 6 grid of codes; 2.7 million parameters, of the styled model's 3.4."""

    WIDTH = 128

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config.model_copy(update={"looks": 0}))
        self.encoder = RasterEncoder(config, self.WIDTH)  # type: ignore[assignment]
        self.decoder = RasterDecoder(config, self.WIDTH)  # type: ignore[assignment]
