"""The styled VAE: encoder, quantizer and styled decoder in one model."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from svq.errors import CheckpointError, UserError
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.decoder import StyledDecoder
from svq.tokenizer.encoder import Encoder, Posterior
from svq.tokenizer.layers import initialise
from svq.tokenizer.position_norm import PositionNorm
from svq.tokenizer.quantizer import build_quantizer
from svq.tokenizer.refine import search_codes
from svq.training.checkpoint import load_model, save_model

PRETRAINED = Path(__file__).parent / "pretrained"  # tokenizers that come with svq, by name


def locate(path: str | Path) -> Path:
    """Return the folder that a path, or the name of a tokenizer that comes with svq, means."""
    packaged = PRETRAINED / path
    return packaged if not Path(path).exists() and packaged.is_dir() else Path(path)


class Reconstruction(NamedTuple):
    """Pictures (B, 3, S, S) painted from their own latents, and what the losses need."""

    images: Tensor
    posterior: Posterior
    quantizer_loss: Tensor


class _Group(NamedTuple):
    """Latents that are written at once (B, g, d): normalised, and as the decoder sees them."""

    posterior: Posterior
    latents: Tensor
    seen: Tensor


class StyledTokenizer(nn.Module):
    """Writes a picture as 36 codes, ordered from high-level to low-level attributes, and paints it again."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.norm = PositionNorm(config.tokens, config.latent_dim) if config.normalize == "position" else None
        self.decoder = StyledDecoder(config)
        initialise(self.encoder)
        initialise(self.decoder)
        # After `initialise`: the library's own start of the codebook stays.
        self.quantizer = build_quantizer(config)

    def forward(
        self,
        images: Tensor,
        eps: Tensor | None = None,
        quantized: Tensor | bool = True,
        keep: Tensor | None = None,
    ) -> Reconstruction:
        """Encode and decode, as training sees it.

        Args:
            images: (B, 3, S, S) in [-1, 1].
            eps: (B, 36, d) standard normal numbers for the sample from the posterior; None takes its mean.
            quantized: (B,) bool, whose latents are quantized, while the others' stay continuous; or all or none
                of them. False leaves the quantizer out altogether.
            keep: (B,) number of leading conditions that count (nested dropout); None keeps all.
        """
        if self.config.looks:
            groups, x = self._look_on(images, eps, quantized, keep)
            last = self.config.tokens - groups[-1].seen.shape[1]
            painted = self.decoder.complete(x, groups[-1].seen, last, keep)
        else:
            groups = [self._write(self.encoder(images), eps, quantized)]
            painted = self.decoder(groups[0].seen, keep)
        loss = painted.new_zeros(())
        if quantized is not False:
            loss = self.quantizer.learn(torch.cat([group.latents for group in groups], dim=1))
        posterior = Posterior(*(torch.cat(parts, dim=1) for parts in zip(*(g.posterior for g in groups), strict=True)))
        return Reconstruction(painted, posterior, loss)

    def _look_on(
        self,
        images: Tensor,
        eps: Tensor | None,
        quantized: Tensor | bool,
        keep: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[list[_Group], Tensor]:
        """Write pictures group by group; return the groups, and the tokens painted on with all but the last.

        Of codes that are given (B, n), instead of the encoder's first n, n is a multiple of a group.
        """
        size = self.config.tokens // self.config.looks
        features, x = self.encoder.features(images), self.decoder.blank(len(images))
        groups: list[_Group] = []
        for i in range(self.config.looks):
            first = i * size
            if groups:
                x = self.decoder.style(x, groups[-1].seen, first - size, keep)
            posterior = self.encoder.look(features, self.decoder.painting(x, first, size), i)
            here = None if eps is None else eps[:, first : first + size]
            group = self._write(posterior, here, quantized, first)
            if given is not None and first < given.shape[1]:
                group = group._replace(seen=self.quantizer.lookup(given[:, first : first + size]))
            groups.append(group)
        return groups, x

    def _write(self, posterior: Posterior, eps: Tensor | None, quantized: Tensor | bool, first: int = 0) -> _Group:
        latents = posterior.mean if eps is None else posterior.sample(eps)  # (B, g, d)
        if self.norm is not None:
            latents = self.norm(latents, first)
        continuous = self.quantizer.continuous(latents)
        if quantized is False:
            return _Group(posterior, latents, continuous)
        seen = self.quantizer(latents).latents
        if isinstance(quantized, Tensor):
            seen = torch.where(quantized[:, None, None], seen, continuous)
        return _Group(posterior, latents, seen)

    def latents(self, images: Tensor, quantized: bool | None = None, given: Tensor | None = None) -> Tensor:
        """Return the normalised mean latents (B, 36, d) of pictures (B, 3, S, S) in [-1, 1].

        Args:
            images: the pictures.
            quantized: whether what the encoder looks at meanwhile is painted from codes or from the latents themselves;
                None: from codes, if there is a codebook yet.
            given: codes (B, n) that it looks at instead of its own first n; n is a multiple of a group's size.
        """
        if not self.config.looks:
            return self._write(self.encoder(images), None, quantized=False).latents
        quantized = bool(self.quantizer.started) if quantized is None else quantized
        groups, _ = self._look_on(images, None, quantized, given=given)
        return torch.cat([group.latents for group in groups], dim=1)

    def code_latents(self, images: Tensor) -> Tensor:
        """Return the latents (B, 36, d) that the decoder is to see: quantized, or not if there is no codebook yet."""
        latents = self.latents(images)
        return self.quantizer(latents).latents if self.quantizer.started else self.quantizer.continuous(latents)

    @torch.no_grad()
    def encode(self, images: Tensor, refine: int = 0) -> Tensor:
        """Write pictures (B, 3, S, S) in [-1, 1] as codes (B, 36) int64, on the model's device.

        Args:
            images: the pictures.
            refine: compare each code with so many others, by what they paint; see `svq.tokenizer.refine`.

        Raises:
            UserError: the pictures have another shape or type, the model is in training mode or not in float32, or
                `refine` is negative.
            CheckpointError: the codebook was never started, because training ended before.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise UserError(f"expected pictures of shape (B, 3, {size}, {size}), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise UserError(f"expected pictures in [-1, 1], got {images.dtype}; map bytes by x / 127.5 - 1")
        if self.training:
            raise UserError("encoding in training mode would change the statistics of the latents; call .eval() first")
        if not self.quantizer.started:
            raise CheckpointError(
                "this tokenizer has no codebook yet: its training ended before quantization began; go on training it"
            )
        if refine < 0:
            raise UserError(f"refine must be 0 or more, got {refine}")
        self._check_precision()
        images = images.to(self.device, torch.float32)
        if refine and len(images):
            group = self.config.tokens // max(1, self.config.looks)
            return search_codes(self.decoder, self.quantizer, self.latents, images, group, refine)
        return self.quantizer(self.latents(images)).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Paint pictures (B, 3, S, S) in [-1, 1], on the model's device, from codes (B, k) int64: all 36, or a prefix.

        Raises:
            UserError: more than 36 codes, a code outside the codebook, codes that are not integers, or a model that is
                not in float32.
        """
        self._check_precision()
        if codes.ndim != 2 or codes.shape[1] > self.config.tokens or codes.is_floating_point():
            raise UserError(
                f"expected integer codes of shape (B, k <= {self.config.tokens}), "
                f"got {codes.dtype} {tuple(codes.shape)}"
            )
        size, codes = self.quantizer.codebook_size, codes.long()  # torch has no minimum of uint16
        if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < size):
            raise UserError(f"codes must lie in [0, {size}), got {int(codes.min())} to {int(codes.max())}")
        return self.decoder(self.quantizer.lookup(codes.to(self.device))).clamp(-1, 1)

    def _check_precision(self) -> None:
        # In half precision other codes would be written than those that decode, and statistics would be too coarse.
        if self.decoder.null.dtype != torch.float32:
            raise UserError(
                f"expected a tokenizer in float32, got {self.decoder.null.dtype}; call .float(), and torch.autocast "
                "around it for half precision"
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.null.device

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "StyledTokenizer":
        """Load a tokenizer, ready for use on the CPU.

        Args:
            path: the folder of a run, a checkpoint or a saved model, or the name of one that comes with svq.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        return load_model(locate(path), lambda config: cls(TokenizerConfig.model_validate(config))).eval()

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``manifest.json`` into a folder."""
        save_model(path, self, self.config.model_dump(mode="json"))
