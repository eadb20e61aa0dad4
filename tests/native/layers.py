"""The layer of APEM's generator by its equations, and inputs for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def layer_inputs(rows: int, n: int, width: int, points: int, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Tokens, gates, inducing points, three matrices, scale and shift; the last gates are closed."""
    gate = torch.rand(rows, points)
    gate[:, points // 2 :] = gate[:, points // 2 :].round()
    matrices = [torch.randn(width, width) / math.sqrt(width) for _ in range(3)]
    inputs = [torch.randn(rows, n, width), gate, torch.randn(points, width), *matrices]
    return [value.to(dtype) for value in (*inputs, torch.rand(width) + 0.5, torch.randn(width))]


def plain_layer(
    x: Tensor, gate: Tensor | None, query: Tensor, key: Tensor, value: Tensor, output: Tensor, scale: Tensor,
    shift: Tensor, eps: float, heads: int, residual: str,
) -> Tensor:  # fmt: skip
    """Equations 14 to 17 head by head."""
    (B, _, D), size = x.shape, x.shape[2] // heads
    q = query.expand(B, -1, -1) if gate is None else query * gate[:, :, None]
    keys, values = x @ key, x @ value
    parts = [slice(m * size, (m + 1) * size) for m in range(heads)]
    scores = [q[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(size) for part in parts]
    read = [s.softmax(dim=-1) @ values[..., part] for s, part in zip(scores, parts, strict=True)]
    added = {"none": torch.zeros_like(q), "tokens": x, "shared": query, "gated": q}[residual]
    return nn.functional.layer_norm(torch.cat(read, dim=-1) @ output + added, (D,), scale, shift, eps)


def gradients(outputs: Tensor, inputs: list[Tensor], seen: Tensor) -> list[Tensor]:
    """The gradient of (outputs * seen).sum() by every input, 0 where an input does not matter."""
    found = torch.autograd.grad(outputs, inputs, seen.to(outputs.dtype), allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]
