"""Quantizers: latents become codes. One interface, five ways, all built on vector-quantize-pytorch.

What is special: every quantizer also has a continuous side, the latents as the decoder sees them before quantization
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

from svq.tokenizer.config import FSQConfig, KMeansConfig, LFQConfig, SimVQConfig, TokenizerConfig, VQConfig
from svq.tokenizer.kmeans import kmeans
from svq.tokenizer.position_norm import mean_of_processes
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


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Return quantized latents with the gradient of latents (Bengio et al. 2013, arXiv:1308.3432)."""
    return latents + (quantized - latents).detach()


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
