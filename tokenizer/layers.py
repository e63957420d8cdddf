"""The transformer layers that encoder and decoder share.

What is special: tensors are batch-first and contiguous throughout, attention is torch's fused
``scaled_dot_product_attention``, and `AdaptiveNorm` is the only place where a style enters a layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # 3 x (B, N, D)
        return self.out(attend(q, k, v, self.heads))  # (B, N, D)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attend with queries (B, N, D) to keys and values (B, M, D), head by head; return (B, N, D)."""
    b, _, d = q.shape
    q, k, v = (t.view(b, t.shape[1], heads, d // heads).transpose(1, 2) for t in (q, k, v))  # 3 x (B, h, ., D/h)
    seen = F.scaled_dot_product_attention(q, k, v)  # (B, h, N, D/h)
    return seen.transpose(1, 2).flatten(2)


class MLP(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, int(width * ratio))
        self.down = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class PlainLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # (B, N, D)
        return x + self.mlp(self.norm2(x))  # (B, N, D)


class AdaptiveNorm(nn.Module):
    """LayerNorm, scaled by ``1 + alpha`` and shifted by ``beta``: AdaLN (Peebles and Xie 2022, arXiv:2212.09748).

    ``(alpha, beta) = Linear(SiLU(style))`` starts at zero, so that training begins with a plain LayerNorm.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        alpha, beta = self.modulation(F.silu(style)).unsqueeze(1).chunk(2, dim=-1)  # 2 x (B, 1, D)
        return torch.addcmul(beta, self.norm(x), 1 + alpha)  # (B, N, D)


class StyledLayer(nn.Module):
    """A transformer layer that takes two conditions in, W+ style (Karras et al. 2020, arXiv:1912.04958).

    Each condition enters through a placeholder token of its own and, together with what that placeholder
    has become by then, as the style of one adaptive norm. A placeholder has been changed by all earlier
    conditions when its turn comes: a later token can only refine what the earlier ones said.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.style1 = nn.Linear(width, width, bias=False)
        self.style_norm1 = nn.LayerNorm(width)
        self.norm1 = AdaptiveNorm(width)
        self.attention = Attention(width, heads)
        self.style2 = nn.Linear(width, width, bias=False)
        self.style_norm2 = nn.LayerNorm(width)
        self.norm2 = AdaptiveNorm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: Tensor, conditions: Tensor, first: int) -> Tensor:
        """Style the token sequence by two conditions.

        Args:
            x: tokens (B, N, D), placeholders first; the two conditions have been added to theirs.
            conditions: this layer's two (B, 2, D).
            first: index of the placeholder of the first of them.
        """
        style = self.style_norm1(self.style1(x[:, first]) + conditions[:, 0])  # (B, D)
        x = x + self.attention(self.norm1(x, style))  # (B, N, D)
        style = self.style_norm2(self.style2(x[:, first + 1]) + conditions[:, 1])  # (B, D)
        return x + self.mlp(self.norm2(x, style))  # (B, N, D)


def run(layer: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """Run a layer; `recompute` keeps only its inputs for the backward pass and computes the rest again there."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)  # Chen et al. 2016, arXiv:1604.06174
    return layer(*inputs)


def initialise(model: nn.Module) -> None:
    """Initialise the weights of encoder and decoder; the one place that does.

    | what                                | gets                       | why                                       |
    |-------------------------------------|----------------------------|-------------------------------------------|
    | linear, convolution                 | Xavier uniform, bias 0     | keeps the scale of activations            |
    | last matrix of a layer's branch     | the same, / sqrt(branches) | the residual stream keeps its scale       |
    | that of a look's branch             | the same, not scaled       | looks are few                             |
    | AdaLN modulation                    | 0                          | a layer starts as its plain self          |
    | W1, W2 of a style                   | 0                          | the style starts as the condition alone   |
    | learned tokens, position embeddings | normal, std 0.02           | as in ViT                                 |
    | output convolution                  | identity                   | the first picture is the patches' pixels  |

    The second and fourth row are what keeps late codes alive: a condition of size 1 that meets a residual
    stream grown to many times that, in its placeholder or in its style, is not heard.
    """
    branches = 2 * sum(isinstance(m, PlainLayer | StyledLayer) for m in model.modules())
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, PlainLayer | StyledLayer):
            for last in (module.attention.out, module.mlp.down):
                last.weight.data.mul_(branches**-0.5)
        if isinstance(module, StyledLayer):
            for zero in (module.style1, module.style2, module.norm1.modulation, module.norm2.modulation):
                nn.init.zeros_(zero.weight)
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1] in {"positions", "queries", "placeholders", "null"}:
            nn.init.normal_(parameter, std=0.02)
        if name.endswith("output.weight"):
            nn.init.dirac_(parameter)
