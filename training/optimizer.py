"""AdamW for everything, or Muon for the matrices inside the layers and AdamW for the rest.

What is special: Muon's orthogonalisation runs batched over all matrices of one shape, and in the precision
that the hardware is good at. torch's own `Muon` works on one matrix at a time and always in bf16, which a
CPU without bf16 units runs hundreds of times slower than fp32.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svq.training.config import OptimizerConfig
from svq.training.sharding import share

# Coefficients and number of steps of the quintic iteration (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Map each matrix (K, M, N) to nearly the nearest semi-orthogonal one: singular values to about 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # (K, M, M)
        # a x + (b gram + c gram gram) x, sums and products at once: small matrices are bound by memory.
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(Optimizer):
    """Momentum, orthogonalised; the update has the root mean square of AdamW's (arXiv:2502.16982)."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                momenta = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])
                updates = orthogonalise(momenta.flatten(2))  # a kernel is a matrix (out, in x height x width)
                rate = group["lr"] * 0.2 * math.sqrt(max(updates.shape[1:]))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.view_as(momenta).unbind(0)), alpha=-rate)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)  # Nesterov


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Return the optimizers of a model; together they own each trainable parameter once.

    Weight decay is for matrices and tables only, and for what Muon moves: the matrices of the stacked layers, whose
    names have a number in their path, and the kernels of stacked convolutions. The heads and the tables of embeddings,
    whose rows are used one by one, stay with AdamW, and so does a discriminator, with which Muon was not tried.
    """
    groups: dict[str, list[nn.Parameter]] = {"muon": [], "decayed": [], "plain": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_stack = any(part.isdigit() for part in name.split(".")) and not name.startswith("critic.")
        by_muon = config.name == "muon" and in_stack and parameter.ndim in (2, 4)
        kind = "muon" if by_muon else "decayed" if parameter.ndim == 2 else "plain"
        groups[kind].append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": groups["decayed"], "weight_decay": config.weight_decay},
            {"params": groups["plain"], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )
    if not groups["muon"]:
        return [adamw]
    muon = Muon(groups["muon"], lr=config.learning_rate, momentum=0.95, weight_decay=config.weight_decay)
    return [adamw, muon]


def learning_rate(config: OptimizerConfig, progress: float) -> float:
    """Return the rate at a share of the run: a linear warm-up, then a cosine down to the final share."""
    if progress < config.warmup_share:
        return config.learning_rate * max(progress / config.warmup_share, 0.01)
    along = (progress - config.warmup_share) / (1 - config.warmup_share)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * along))
    return config.learning_rate * share


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the tensors of an optimizer's state by ``parameter.key``; everything else follows from the config."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, values in state.items() for key, value in values.items()}


def load_optimizer_state(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what `optimizer_state` returned, whole or not, shared out as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        i, key = name.split(".", 1)
        state[int(i)][key] = share(tensor, parameters[int(i)])
    optimizer.load_state_dict({"state": dict(state), "param_groups": optimizer.state_dict()["param_groups"]})
