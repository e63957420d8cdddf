"""The discriminator: its losses in closed form, who learns from what, and when."""

import pytest
import torch

from svq.data import ImageSet
from svq.tokenizer.config import TokenizerConfig, TokenizerTrainConfig
from svq.tokenizer.critic import PatchCritic, balance
from svq.tokenizer.task import TokenizerTask
from tests.steps import draws


class Bright(PatchCritic):
    """Scores a picture by its mean value, times a weight that can be learned."""

    def __init__(self) -> None:
        super().__init__(4, 16)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.mean((1, 2, 3))


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 16, 16).clone()


def test_the_losses_are_hinge_and_lecam() -> None:
    critic = Bright()
    critic.real_mean.fill_(0.25)
    critic.fake_mean.fill_(-0.5)
    painter, loss = critic.judge(flat(-0.25, 0.5), flat(0.25, 1.0), lecam_weight=0.1)
    assert painter.item() == pytest.approx(-0.25)  # scores -0.5 and 1
    hinge = ((1 - 0.5) + 0) / 2 + ((1 - 0.5) + (1 + 1)) / 2
    lecam = (1.0**2 + 2.5**2) / 2 + (0.75**2 + 0) / 2
    assert loss.item() == pytest.approx(hinge + 0.1 * lecam)


def test_what_the_critic_thought_on_average_is_remembered() -> None:
    critic = Bright().train()
    critic.judge(flat(-1.0), flat(1.0), 0.0)
    assert float(critic.real_mean) == pytest.approx(0.02)
    assert float(critic.fake_mean) == pytest.approx(-0.02)
    critic.judge(flat(float("nan")), flat(1.0), 0.0)
    assert float(critic.fake_mean) == pytest.approx(-0.02)


def test_neither_side_learns_from_the_others_loss() -> None:
    critic = PatchCritic(4, 16)
    painted, real = torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)
    verdict = critic.judge(painted, real, 0.1)
    verdict.painter.backward(retain_graph=True)
    assert painted.grad is not None
    assert painted.grad.any()
    assert all(p.grad is None for p in critic.parameters())
    painted.grad = None
    verdict.critic.backward()
    assert painted.grad is None
    assert all(p.grad is not None for p in critic.parameters())


def test_a_balanced_weight_makes_both_losses_pull_equally() -> None:
    last = torch.randn(5, requires_grad=True)
    one, other = (3 * last).sum(), (last * torch.arange(5.0)).sum()
    factor = balance(one, other, last)
    pull = torch.autograd.grad(factor * other, last)[0].norm()
    assert float(pull) == pytest.approx(3 * 5**0.5, rel=1e-3)


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_critic_starts_late(config: TokenizerConfig, pictures: ImageSet, adaptive: bool) -> None:
    train = TokenizerTrainConfig(critic_weight=0.5, critic_start=0.5, critic_adaptive=adaptive, critic_width=4)
    task, plain = TokenizerTask(config, train, pictures), TokenizerTask(config, TokenizerTrainConfig(), pictures)
    batch = task.batch(torch.arange(8))
    before, without = task.losses(batch, 0.49, draws(8)), plain.losses(batch, 0.49, draws(8))
    torch.testing.assert_close(before.total, without.total)
    after = task.losses(batch, 0.5, draws(8))
    weight, painter, critic = (after.parts[name] for name in ("critic_weight", "painter", "critic"))
    torch.testing.assert_close(after.total, plain.losses(batch, 0.5, draws(8)).total + weight * painter + critic)
    assert weight > 0
    assert adaptive or weight == 0.5


def test_there_is_none_by_default(config: TokenizerConfig, pictures: ImageSet) -> None:
    assert TokenizerTask(config, TokenizerTrainConfig(), pictures).critic is None


@pytest.mark.parametrize("size", [8, 16, 32, 64, 256])
def test_pictures_of_all_sizes_get_scores_by_patch(size: int) -> None:
    scores = PatchCritic(4, size)(torch.randn(1, 3, size, size))
    assert scores.shape[2] >= 2 or size == 8
    assert scores.shape[1] == 1
