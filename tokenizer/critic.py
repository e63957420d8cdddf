"""An optional patch discriminator, for the end of training: it makes what a pixel loss leaves soft crisp.

What is special: its loss and the tokenizer's are taken in one backward pass. The tokenizer is judged by a copy
whose weights count as constants, and the critic sees pictures whose makers count as constants, so that neither
gradient reaches the other's weights.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

LECAM_DECAY = 0.99


class Verdict(NamedTuple):
    """Scalars: how far the pictures are from fooling the critic, and the critic's own loss."""

    painter: Tensor
    critic: Tensor


class PatchCritic(nn.Module):
    """Picture (B, 3, S, S) -> a score for each patch (B, 1, s, s), high for real ones (Isola et al. 2016, 1611.07004).

    Args:
        width: channels of the first layer; doubled at each halving of the picture.
        image_size: side of the pictures; they are halved at most three times, and not below 4 x 4.
    """

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for halving in range(max(1, min(3, image_size.bit_length() - 3))):
            out = width * 2**halving
            norm = nn.GroupNorm(1, out) if halving else nn.Identity()
            layers += [nn.Conv2d(channels, out, 4, stride=2, padding=1), norm, nn.LeakyReLU(0.2)]
            channels = out
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    real_mean: Tensor
    fake_mean: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def judge(self, painted: Tensor, real: Tensor, lecam_weight: float) -> Verdict:
        """Return both losses: hinge (arXiv:1705.02894), and LeCam for the critic (Tseng et al. 2021, 2104.03310).

        Args:
            painted: (B, 3, S, S), what the tokenizer made.
            real: (B, 3, S, S) in [-1, 1].
            lecam_weight: how strongly the critic is held to what it thought on average.
        """
        constants = {name: t.detach() for name, t in (*self.named_parameters(), *self.named_buffers())}
        painter = -functional_call(self, constants, (painted,)).mean()
        of_real, of_fake = self(real), self(painted.detach())
        critic = F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()
        lecam = F.relu(of_real - self.fake_mean).square().mean() + F.relu(self.real_mean - of_fake).square().mean()
        self._remember(of_real, of_fake)
        return Verdict(painter, critic + lecam_weight * lecam)

    @torch.no_grad()
    def _remember(self, of_real: Tensor, of_fake: Tensor) -> None:
        now = torch.stack([of_real.mean(), of_fake.mean()]).float()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(now)
            now /= torch.distributed.get_world_size()
        if self.training and now.isfinite().all():
            self.real_mean = self.real_mean.lerp(now[0], 1 - LECAM_DECAY)
            self.fake_mean = self.fake_mean.lerp(now[1], 1 - LECAM_DECAY)


def balance(reconstruction: Tensor, painter: Tensor, last: Tensor) -> Tensor:
    """Return the factor that makes both losses pull equally at the last layer (Esser et al. 2020, arXiv:2012.09841).

    Args:
        reconstruction: a scalar loss.
        painter: the critic's, a scalar.
        last: the weights of the decoder's last layer.
    """
    ours = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
    theirs = torch.autograd.grad(painter, last, retain_graph=True)[0].norm()
    return (ours / (theirs + 1e-4)).clamp(0, 1e4).detach()
