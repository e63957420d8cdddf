"""Quantizers: latents become codes. One interface, five ways, all built on vector-quantize-pytorch.

What is special: the latents of each position are normalised by themselves first. Late positions vary
little; in a codebook that all positions share they would otherwise fall on a single code.

Every quantizer also has a continuous side, the latents as the decoder sees them before quantization
begins. It has the range of the codes, so that the switch from one to the other is a small step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
import vector_quantize_pytorch as vqp
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce  # as the public one's warning says

from svq.errors import TrainingError
from svq.tokenizer.config import FSQConfig, KMeansConfig, LFQConfig, SimVQConfig, TokenizerConfig, VQConfig
from svq.tokenizer.kmeans import kmeans
from svq.training.device import products_in

AT_ONCE = 2**24  # latents times codes; the library holds some 16 bytes for each
SURENESS = 100.0  # the inverse temperature at which a latent chooses its code, for LFQ's entropies; the library's


class Quantized(NamedTuple):
    """Latents on the codebook (B, g, d), and codes (B, g) int64.

    The gradient goes straight through to what was quantized; with VQ and SimVQ it is turned and scaled on the way, as
    the latent has to be to become its code (the rotation trick, Fifty et al. 2024, arXiv:2410.06424).
    """

    latents: Tensor
    codes: Tensor


def mean_of_processes(x: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes of a run; its gradient is that of the mean."""
    if not torch.distributed.is_initialized():
        return x
    everyone = torch.distributed.group.WORLD
    assert everyone is not None
    return all_reduce(x, "sum", everyone) / everyone.size()


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Return quantized latents with the gradient of latents (Bengio et al. 2013, arXiv:1308.3432)."""
    return latents + (quantized - latents).detach()


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
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if self.training and len(x) * processes == 1:
            raise TrainingError(
                "latents are normalised over the pictures that are seen at a time, and this was a single one; give "
                "another train.batch_size or train.micro_batch, such that 2 or more are left for every part of a batch"
            )
        if self.training and processes > 1:
            return self._over_processes(x, mean, variance, len(x) * processes).view_as(z)  # (B, g, d)
        momentum, eps = self.norm.momentum or 0.0, self.norm.eps
        return F.batch_norm(x, mean, variance, training=self.training, momentum=momentum, eps=eps).view_as(z)

    def _over_processes(self, x: Tensor, running_mean: Tensor, running_variance: Tensor, count: int) -> Tensor:
        # torch's SyncBatchNorm is for GPUs only.
        mean = mean_of_processes(x.mean(0))  # (g d,)
        # Around the mean, not the mean of squares less the square of the mean: fp32 would cancel to noise.
        variance = mean_of_processes((x - mean).square().mean(0))
        with torch.no_grad():
            running_mean.lerp_(mean, self.norm.momentum or 0.0)
            running_variance.lerp_(variance * count / (count - 1), self.norm.momentum or 0.0)
        return (x - mean) * torch.rsqrt(variance + self.norm.eps)


@contextmanager
def exactly(latents: Tensor) -> Iterator[None]:
    """Compute in fp32; in bf16, or TF32, some of the nearest codes would be others than those that decode."""
    with products_in(tf32=False), torch.autocast(latents.device.type, enabled=False):
        yield


def in_blocks(
    quantize: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], latents: Tensor, codebook_size: int
) -> Quantized:
    """Quantize latents (B, g, d) by comparing each with all codes: of large codebooks, a few pictures at a time."""
    rows = max(1, AT_ONCE // (latents.shape[1] * codebook_size))
    quantized, codes, _ = zip(*(quantize(part) for part in latents.split(rows)), strict=True)
    return Quantized(torch.cat(quantized), torch.cat(codes))


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
        return latents.new_zeros(())

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
            threshold_ema_dead_code=config.dead_below,
            commitment_weight=config.commitment,
            # Explicit: the library's own answer is cached on first use and can be stale.
            sync_codebook=torch.distributed.is_initialized(),
        )
        self.dead_below = config.dead_below

    def start(self, latents: Tensor) -> None:
        with exactly(latents):
            means, counts = kmeans(self.continuous(latents).flatten(0, 1), self.codebook_size, 20, cosine=True)
        _set_codebook(self.vq, means, counts)
        super().start(latents)

    def learn(self, latents: Tensor) -> Tensor:
        codebook = self.vq._codebook
        # The library means a number of latents in a pass. But in a small batch, or with many codes, an average code has
        # less than one: nearly all would be dead, and replaced at every step.
        average = codebook.cluster_size.mean()
        codebook.threshold_ema_dead_code, codebook.reset_cluster_size = self.dead_below * average, average
        with exactly(latents):
            return self.vq(latents.float())[2]

    def continuous(self, latents: Tensor) -> Tensor:
        return F.normalize(latents, dim=-1)

    def forward(self, latents: Tensor) -> Quantized:
        with exactly(latents):  # `learn` moves the codebook
            return in_blocks(lambda part: self.vq(part, freeze_codebook=True), latents.float(), self.codebook_size)

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
        return Quantized(quantized, codes.long())

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

    def _quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with exactly(latents):
            return self.vq(self.continuous(latents.float()))

    def learn(self, latents: Tensor) -> Tensor:
        return self._quantize(latents)[2]

    def forward(self, latents: Tensor) -> Quantized:
        return in_blocks(self._quantize, latents, self.codebook_size)

    def lookup(self, codes: Tensor) -> Tensor:
        # The library's `indices_to_codes` fails where there are none, as in an empty prefix.
        return self.vq.code_transform(self.vq.frozen_codebook[codes])


class LFQ(Quantizer):
    """Each value of a latent is a bit: 1 where it is positive. No codebook is learned, none can collapse."""

    def __init__(self, config: LFQConfig) -> None:
        super().__init__(config.codebook_size)
        self.config = config
        with torch.device("cpu"):  # as for FSQ
            self.lfq = vqp.LFQ(dim=config.bits, codebook_size=config.codebook_size)

    def learn(self, latents: Tensor) -> Tensor:
        """Return how unsure each latent is of its code, less how varied the codes are, and the commitment.

        Yu et al. 2023 (arXiv:2310.05737), eq. 4 and 5; it is the library's own, but for the mean over processes, of
        which the library's is none (it drops what others had).
        """
        with exactly(latents):
            x = latents.flatten(0, 1).float()  # (N, bits)
            codes = self.lfq.codebook.float()  # (K, bits), of -1 and 1
            likely = (2 * SURENESS * x @ codes.T).softmax(-1)  # (N, K)
            unsure, varied = _entropy(likely).mean(), _entropy(mean_of_processes(likely.mean(0)))
            commitment = F.mse_loss(x, torch.where(x > 0, 1.0, -1.0))
            return self.config.entropy_weight * (unsure - varied) + self.config.commitment * commitment

    def continuous(self, latents: Tensor) -> Tensor:
        return latents

    def forward(self, latents: Tensor) -> Quantized:
        quantized, codes, _ = self.lfq.eval()(latents)  # in training mode it takes the entropies of each group
        return Quantized(straight_through(latents, quantized) if self.training else quantized, codes)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.lfq.indices_to_codes(codes)


class KMeans(Quantizer):
    """A codebook fitted once to the latents of a VAE, and then frozen."""

    needs_start = True

    def __init__(self, config: KMeansConfig) -> None:
        super().__init__(config.codebook_size)
        self.iterations = config.iterations
        self.vq = vqp.VectorQuantize(dim=config.dim, codebook_size=config.codebook_size, commitment_weight=0.0)

    def start(self, latents: Tensor) -> None:
        with exactly(latents):
            means, counts = kmeans(latents.flatten(0, 1), self.codebook_size, self.iterations)
        _set_codebook(self.vq, means, counts)
        super().start(latents)

    def continuous(self, latents: Tensor) -> Tensor:
        return latents

    def forward(self, latents: Tensor) -> Quantized:
        with exactly(latents):
            # In training mode it would move.
            nearest, codes = in_blocks(self.vq.eval(), latents.float(), self.codebook_size)
            return Quantized(straight_through(latents, nearest) if self.training else nearest, codes)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.vq.get_output_from_indices(codes)


def _entropy(likely: Tensor) -> Tensor:
    return -(likely * likely.clamp(min=1e-5).log()).sum(-1)


def _set_codebook(vq: vqp.VectorQuantize, means: Tensor, counts: Tensor) -> None:
    """Give a codebook its codes, and the counts and sums that its moving averages begin with.

    Those are of about a batch, an average code's count being 1: with the counts of all latents that k-means saw, it
    would be many steps before new latents moved a code, or a dead one was noticed.
    """
    codebook, counts = vq._codebook, counts / counts.mean()
    codebook.embed.copy_(means[None])
    codebook.embed_avg.copy_((means * counts[:, None])[None])
    codebook.cluster_size.copy_(counts[None])
    codebook.initted.fill_(True)  # not so in runs that were begun when the library did this


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
