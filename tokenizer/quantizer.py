"""Quantizers: latents become codes. One interface, five ways, all built on vector-quantize-pytorch.

What is special: the latents of each position are normalised by themselves first. Late positions vary
little; in a codebook that all positions share they would otherwise fall on a single code.

Every quantizer also has a continuous side, the latents as the decoder sees them before quantization
begins. It has the range of the codes, so that the switch from one to the other is a small step.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
import vector_quantize_pytorch as vqp
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce  # as the public one's warning says

from svq.errors import TrainingError
from svq.tokenizer.config import FSQConfig, KMeansConfig, LFQConfig, SimVQConfig, TokenizerConfig, VQConfig


class Quantized(NamedTuple):
    """Latents on the codebook (B, g, d) with straight-through gradient, codes (B, g) int64, loss term."""

    latents: Tensor
    codes: Tensor
    loss: Tensor


class PositionNorm(nn.Module):
    """Each (position, channel) to mean 0 and variance 1: batch norm without affine (arXiv:1502.03167).

    In a run of several processes the statistics are those of all they see at a time.

    Raises:
        TrainingError: a single picture, in training; it has no variance.
    """

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(tokens * dim, affine=False)

    def forward(self, z: Tensor, first: int = 0) -> Tensor:
        """Normalise latents (B, g, d), those from position `first` on."""
        x = z.flatten(1).float()  # (B, g d); statistics in bf16 would be too coarse
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        here = slice(first * z.shape[2], (first + z.shape[1]) * z.shape[2])
        mean, variance = self.norm.running_mean[here], self.norm.running_var[here]
        if self.training and torch.distributed.is_initialized():
            return self._over_processes(x, mean, variance).view_as(z)  # (B, g, d)
        if self.training and len(x) == 1:
            raise TrainingError(
                "latents are normalised over the pictures that are seen at a time, and this was a single one; give "
                "another train.batch_size or train.micro_batch, such that 2 or more are left for every part of a batch"
            )
        momentum, eps = self.norm.momentum or 0.0, self.norm.eps
        return F.batch_norm(x, mean, variance, training=self.training, momentum=momentum, eps=eps).view_as(z)

    def _over_processes(self, x: Tensor, running_mean: Tensor, running_variance: Tensor) -> Tensor:
        # torch's SyncBatchNorm is for GPUs only.
        everyone = torch.distributed.group.WORLD
        assert everyone is not None
        mean = all_reduce(x.mean(0), "sum", everyone) / everyone.size()  # (g d,)
        # Around the mean, not the mean of squares less the square of the mean: fp32 would cancel to noise.
        variance = all_reduce((x - mean).square().mean(0), "sum", everyone) / everyone.size()
        with torch.no_grad():
            count = len(x) * everyone.size()
            unbiased = variance * count / max(count - 1, 1)
            running_mean.lerp_(mean, self.norm.momentum or 0.0)
            running_variance.lerp_(unbiased, self.norm.momentum or 0.0)
        return (x - mean) * torch.rsqrt(variance + self.norm.eps)


class Quantizer(nn.Module, ABC):
    """What all quantizers have in common."""

    needs_start = False  # whether `start` must have seen latents before there are codes
    started: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("started", torch.tensor(not self.needs_start))

    def start(self, latents: Tensor) -> None:
        """Initialise the codebook from normalised latents (B, 36, d) of real pictures."""
        self.started.fill_(True)

    def learn(self, latents: Tensor) -> Tensor:
        """Return the loss term of all normalised latents (B, 36, d) of a pass; in training, move the codebook as well.

        Not a matter for `forward`, which sees latents in groups: a codebook moves once, and LFQ's entropy is that of
        all positions together.
        """
        return self(latents).loss

    @abstractmethod
    def continuous(self, latents: Tensor) -> Tensor:
        """Return the latents (B, g, d) in the range of the codes, not quantized."""

    @abstractmethod
    def forward(self, latents: Tensor) -> Quantized:
        """Quantize normalised latents (B, g, d)."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Return the latents (B, k, d) of codes (B, k) int64."""


class CosineVQ(Quantizer):
    """A learned codebook on the unit sphere, moved by EMA (Yu et al. 2021, arXiv:2110.04627)."""

    needs_start = True

    def __init__(self, config: VQConfig) -> None:
        super().__init__(config.codebook_size)
        self.vq = vqp.VectorQuantize(
            dim=config.dim,
            codebook_size=config.codebook_size,
            decay=config.decay,
            use_cosine_sim=True,
            kmeans_init=True,
            kmeans_iters=20,
            threshold_ema_dead_code=config.dead_below,
            commitment_weight=config.commitment,
            # Explicit: the library's own answer is cached on first use and can be stale.
            sync_codebook=torch.distributed.is_initialized(),
        )

    def start(self, latents: Tensor) -> None:
        training = self.vq.training
        self.vq.train()(latents)  # the first call in training mode runs k-means
        self.vq.train(training)
        super().start(latents)

    def learn(self, latents: Tensor) -> Tensor:
        return self.vq(latents)[2]

    def continuous(self, latents: Tensor) -> Tensor:
        return F.normalize(latents, dim=-1)

    def forward(self, latents: Tensor) -> Quantized:
        return Quantized(*self.vq(latents, freeze_codebook=True))  # `learn` moves it

    def lookup(self, codes: Tensor) -> Tensor:
        return self.vq.get_output_from_indices(codes)


class FSQ(Quantizer):
    """Every value is squashed and rounded to one of a few levels; the codebook is the grid of all levels."""

    def __init__(self, config: FSQConfig) -> None:
        super().__init__(config.codebook_size)
        with torch.device("cpu"):  # the library reads values while it builds, which the meta device has not
            self.fsq = vqp.FSQ(list(config.levels))
        levels = torch.tensor(config.levels, dtype=torch.float32)
        even = (levels % 2 == 0).float()
        self.register_buffer("reach", (levels - 1) * (1 + 1e-3) / 2, persistent=False)
        self.register_buffer("offset", even / 2, persistent=False)
        self.register_buffer("steps", levels // 2, persistent=False)

    reach: Tensor
    offset: Tensor
    steps: Tensor

    def continuous(self, latents: Tensor) -> Tensor:
        # The library's `FSQ.bound` without its rounding.
        shift = torch.atanh(self.offset / self.reach)
        return (torch.tanh(latents + shift) * self.reach - self.offset) / self.steps

    def forward(self, latents: Tensor) -> Quantized:
        quantized, codes = self.fsq(latents)
        return Quantized(quantized, codes.long(), quantized.new_zeros(()))

    def lookup(self, codes: Tensor) -> Tensor:
        return self.fsq.indices_to_codes(codes)


class SimVQ(Quantizer):
    """A frozen codebook behind one learned linear map, so that all codes move together and none dies."""

    def __init__(self, config: SimVQConfig) -> None:
        super().__init__(config.codebook_size)
        self.vq = vqp.SimVQ(dim=config.dim, codebook_size=config.codebook_size, commitment_weight=config.commitment)
        self.scale = config.dim**-0.5  # the library's codes begin with a norm of about 1

    def continuous(self, latents: Tensor) -> Tensor:
        return self.scale * latents

    def forward(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):  # codes in bf16 would not be those that decode
            return Quantized(*self.vq(self.continuous(latents.float())))

    def lookup(self, codes: Tensor) -> Tensor:
        return self.vq.indices_to_codes(codes)


class LFQ(Quantizer):
    """Each value of a latent is a bit: 1 where it is positive. No codebook is learned, none can collapse."""

    def __init__(self, config: LFQConfig) -> None:
        super().__init__(config.codebook_size)
        with torch.device("cpu"):  # as for FSQ
            self.lfq = vqp.LFQ(
                dim=config.bits,
                codebook_size=config.codebook_size,
                entropy_loss_weight=config.entropy_weight,
                commitment_loss_weight=config.commitment,
            )

    def continuous(self, latents: Tensor) -> Tensor:
        return latents

    def forward(self, latents: Tensor) -> Quantized:
        quantized, codes, loss = self.lfq(latents)
        return Quantized(quantized, codes, loss)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.lfq.indices_to_codes(codes)


class KMeans(Quantizer):
    """A codebook fitted once to the latents of a finished VAE, and then frozen."""

    needs_start = True

    def __init__(self, config: KMeansConfig) -> None:
        super().__init__(config.codebook_size)
        self.vq = vqp.VectorQuantize(
            dim=config.dim,
            codebook_size=config.codebook_size,
            kmeans_init=True,
            kmeans_iters=config.iterations,
            decay=1.0,  # the codes stay where k-means put them
            commitment_weight=0.0,
            sync_codebook=torch.distributed.is_initialized(),
        )

    def start(self, latents: Tensor) -> None:
        self.vq.train()(latents)
        super().start(latents)

    def continuous(self, latents: Tensor) -> Tensor:
        return latents

    def forward(self, latents: Tensor) -> Quantized:
        nearest, codes, loss = self.vq.eval()(latents)
        # Straight through (Bengio et al. 2013, arXiv:1308.3432): the library does so in training mode only.
        return Quantized(latents + (nearest - latents).detach() if self.training else nearest, codes, loss)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.vq.get_output_from_indices(codes)


def build_quantizer(config: TokenizerConfig) -> Quantizer:
    """Build the quantizer that a tokenizer's configuration names."""
    match config.quantizer:
        case VQConfig() as quantizer:
            return CosineVQ(quantizer)
        case FSQConfig() as quantizer:
            return FSQ(quantizer)
        case SimVQConfig() as quantizer:
            return SimVQ(quantizer)
        case LFQConfig() as quantizer:
            return LFQ(quantizer)
        case KMeansConfig() as quantizer:
            return KMeans(quantizer)
