"""Muon, the groups, and the course of the learning rate."""

import pytest
import torch

from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.critic import PatchCritic
from svq.training.config import OptimizerConfig
from svq.training.optimizer import (
    Muon,
    build_optimizers,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
    orthogonalise,
)
from svq.training.step import update


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
def test_orthogonalise_brings_all_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalise(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.3
    # The directions are those of the matrix itself.
    torch.testing.assert_close(
        torch.einsum("kim,kij,knj->kmn", u, result, vt).diagonal(dim1=1, dim2=2),
        values.new_ones(values.shape),
        atol=0.7,
        rtol=0,
    )
    assert (
        torch.einsum("kim,kij,knj->kmn", u, result, vt)
        - torch.diag_embed(torch.einsum("kim,kij,kmj->km", u, result, vt))
    ).abs().max() < 1e-3


def test_one_step_of_muon_has_the_size_that_adamw_would_have() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.randn(64, 64)
    Muon([weight], lr=0.1, momentum=0.95, weight_decay=0.0).step()
    assert 0.15 < weight.square().mean().sqrt() / 0.1 < 0.25  # Adam's updates have an RMS of 0.2 to 0.4


@pytest.mark.parametrize("shape", [(8, 32), (32, 8)])
def test_muon_moves_as_torchs_own_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    one = Muon([ours], lr=0.1, momentum=0.95, weight_decay=0.1)
    other = torch.optim.Muon(
        [theirs], lr=0.1, momentum=0.95, weight_decay=0.1, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    assert (ours - theirs).norm() < 0.03 * theirs.norm()  # theirs is always in bf16


def test_each_matrix_is_moved_by_its_own_gradient() -> None:
    """Those of one shape are stacked."""
    torch.manual_seed(0)
    gradients = [torch.randn(8, 8) for _ in range(3)]
    together, alone = ([torch.nn.Parameter(torch.zeros(8, 8)) for _ in gradients] for _ in range(2))
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    Muon(together, lr=0.1, momentum=0.95, weight_decay=0.0).step()
    for parameter in alone:
        Muon([parameter], lr=0.1, momentum=0.95, weight_decay=0.0).step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_the_optimizers_have_what_was_asked_for(config: TokenizerConfig) -> None:
    asked = OptimizerConfig(name="muon", betas=(0.8, 0.7), weight_decay=0.3)
    adamw, muon = build_optimizers(StyledTokenizer(config), asked)
    assert {group["betas"] for group in adamw.param_groups} == {(0.8, 0.7)}
    assert {group["weight_decay"] for group in adamw.param_groups} == {0.0, 0.3}
    assert {group["weight_decay"] for group in muon.param_groups} == {0.3}


def test_muon_decays_what_it_moves() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, momentum=0.95, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_a_kernel_is_moved_as_the_matrix_that_it_is() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(8, 3, 3, 3)
    kernel, matrix = torch.nn.Parameter(torch.ones(8, 3, 3, 3)), torch.nn.Parameter(torch.ones(8, 27))
    kernel.grad, matrix.grad = gradient, gradient.flatten(1)
    Muon([kernel], lr=0.1, momentum=0.95, weight_decay=0.1).step()
    Muon([matrix], lr=0.1, momentum=0.95, weight_decay=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())


def test_muon_moves_stacked_convolutions_but_not_a_discriminators() -> None:
    model = torch.nn.Module()
    model.model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    model.critic = PatchCritic(4, 16)
    muon = build_optimizers(model, OptimizerConfig(name="muon"))[1]
    owned = {id(p) for group in muon.param_groups for p in group["params"]}
    assert owned == {id(layer.weight) for layer in model.model}


def test_muon_takes_the_matrices_of_the_layers_and_nothing_is_left_out(config: TokenizerConfig) -> None:
    model = StyledTokenizer(config)
    optimizers = build_optimizers(model, OptimizerConfig(name="muon"))
    owned = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for g in optimizers[1].param_groups for p in g["params"]}
    assert "decoder.styled.0.attention.qkv.weight" in by_muon
    assert not by_muon & {"encoder.mean.weight", "decoder.pixels.weight", "decoder.condition.weight", "encoder.queries"}


def test_nothing_but_matrices_decays(config: TokenizerConfig) -> None:
    (adamw,) = build_optimizers(StyledTokenizer(config), OptimizerConfig(name="adamw", weight_decay=0.1))
    for group in adamw.param_groups:
        for parameter in group["params"]:
            assert (parameter.ndim == 2) == (group["weight_decay"] > 0)


def test_the_rate_rises_then_falls_to_its_final_share() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_share=0.1, final_share=0.2)
    assert learning_rate(config, 0.05) == pytest.approx(0.5)
    assert learning_rate(config, 0.1) == pytest.approx(1.0)
    assert learning_rate(config, 0.55) == pytest.approx(0.6)
    assert learning_rate(config, 1.0) == pytest.approx(0.2)


def test_an_update_is_of_the_rate_that_it_is_given() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    optimizers = build_optimizers(model, OptimizerConfig(name="muon", learning_rate=1.0, weight_decay=0.0))
    moved = []
    for rate in (0.1, 0.2):
        before = [p.detach().clone() for p in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        update(optimizers, rate)
        moved.append([(p - old).norm().item() for p, old in zip(model.parameters(), before, strict=True)])
        assert all(p.grad is None for p in model.parameters())
    assert moved[1] == pytest.approx([2 * distance for distance in moved[0]], rel=1e-2)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_the_state_survives_a_file(name: str) -> None:
    def stepped(model: torch.nn.Module, optimizers: list, n: int) -> None:
        for i in range(n):
            model(torch.full((2, 4), float(i + 1))).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    config = OptimizerConfig(name=name)  # type: ignore[arg-type]
    torch.manual_seed(0)
    a = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    first = build_optimizers(a, config)
    stepped(a, first, 3)
    b = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    b.load_state_dict(a.state_dict())
    second = build_optimizers(b, config)
    for old, new in zip(first, second, strict=True):
        load_optimizer_state(new, {k: v.clone() for k, v in optimizer_state(old).items()})
    stepped(a, first, 2)
    stepped(b, second, 2)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
