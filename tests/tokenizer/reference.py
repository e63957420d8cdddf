"""A plain transcription of the equations of the styled decoder, for clarity and not for speed.

It knows nothing of the package's layers: it takes their weights by name and follows the text.

    x[2i], x[2i+1]  +=  c[2i], c[2i+1]
    style1 = LN1(W1 x[2i] + c[2i])
    x = x + Attention(AdaLN1(x, style1))
    style2 = LN2(W2 x[2i+1] + c[2i+1])
    x = x + MLP(AdaLN2(x, style2))
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def normalise(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return normalise(x) * w[f"{name}.weight"] + w[f"{name}.bias"]


def adaptive_norm(w: Weights, name: str, x: Tensor, style: Tensor) -> Tensor:
    silu = style * torch.sigmoid(style)
    alpha, beta = linear(w, f"{name}.modulation", silu).chunk(2, dim=-1)
    return normalise(x) * (1 + alpha[:, None]) + beta[:, None]


def attention(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = linear(w, f"{name}.qkv", x).chunk(3, dim=-1)
    outputs = []
    for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = qh @ kh.transpose(1, 2) / math.sqrt(qh.shape[-1])
        outputs.append(torch.exp(scores - scores.logsumexp(-1, keepdim=True)) @ vh)
    return linear(w, f"{name}.out", torch.cat(outputs, -1))


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    h = linear(w, f"{name}.up", x)
    h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    return linear(w, f"{name}.down", h)


def styled_layer(w: Weights, x: Tensor, c: Tensor, i: int, heads: int, own: int | None = None) -> Tensor:
    """Style x by the conditions 2i and 2i + 1; the placeholder of the first of them is token 2i, or `own`."""
    j = 2 * i if own is None else own
    entered = x.clone()
    entered[:, j] = x[:, j] + c[:, 2 * i]
    entered[:, j + 1] = x[:, j + 1] + c[:, 2 * i + 1]
    x = entered
    style1 = layer_norm(w, "style_norm1", linear(w, "style1", x[:, j]) + c[:, 2 * i])
    x = x + attention(w, "attention", adaptive_norm(w, "norm1", x, style1), heads)
    style2 = layer_norm(w, "style_norm2", linear(w, "style2", x[:, j + 1]) + c[:, 2 * i + 1])
    return x + mlp(w, "mlp", adaptive_norm(w, "norm2", x, style2))


def plain_layer(w: Weights, x: Tensor, heads: int) -> Tensor:
    x = x + attention(w, "attention", layer_norm(w, "norm1", x), heads)
    return x + mlp(w, "mlp", layer_norm(w, "norm2", x))


def within(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def unpatchify(x: Tensor, side: int, patch: int) -> Tensor:
    """Put patch (row, column) where it belongs; a patch's values are ordered channel, row, column."""
    x = x.reshape(len(x), side, side, 3, patch, patch)  # (B, row, column, channel, row in it, column in it)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(x), 3, side * patch, side * patch)


def decode(
    weights: Weights,
    latents: Tensor,
    *,
    tokens: int,
    plain_layers: int,
    heads: int,
    side: int,
    patch: int,
    convolve: Callable[[Tensor], Tensor],
    ahead: int | None = None,
) -> Tensor:
    """Paint latents (B, k, d) with a decoder's weights; `convolve` is its output convolution.

    With `ahead`, a styled layer sees of the placeholders only its own and those of so many next layers.
    """
    c = linear(weights, "condition", latents)
    null = weights["null"].expand(len(c), -1, -1)
    c = torch.cat([c, null[:, c.shape[1] :]], dim=1)
    x = torch.cat([weights["placeholders"], weights["positions"]], dim=1).expand(len(c), -1, -1)
    if ahead is None:
        for i in range(tokens // 2):
            x = styled_layer(within(weights, f"styled.{i}."), x, c, i, heads)
    else:
        for i in range(tokens // 2):
            seen = [j for j in range(x.shape[1]) if j >= tokens or i <= j // 2 <= i + ahead]
            changed = styled_layer(within(weights, f"styled.{i}."), x[:, seen], c, i, heads, seen.index(2 * i))
            x = x.clone()
            x[:, seen] = changed
        x, tokens = x[:, seen], seen.index(tokens)
    for i in range(plain_layers):
        x = plain_layer(within(weights, f"plain.{i}."), x, heads)
    x = linear(weights, "pixels", layer_norm(weights, "norm", x[:, tokens:]))
    return convolve(unpatchify(x, side, patch))
