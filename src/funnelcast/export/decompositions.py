"""Functions in log space by operators that ONNX has, without the digits that its usual translations lose.

ONNX has neither log1p nor expm1, and log(sigmoid(x)) and log(e^a + e^b), as log-sigmoid and log-add-exp are usually
translated, are -inf from |x| = 104 on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["DECOMPOSITIONS"]

aten = torch.ops.aten


def log1p(x: Tensor) -> Tensor:
    """Compute log(1 + x) = 2 artanh(x / (2 + x)); near 0 no digit is lost.

    In float64 the plain form keeps more digits than float32 has, and ONNX Runtime has no other.
    """
    return torch.log(1.0 + x) if x.dtype is torch.float64 else 2.0 * torch.atanh(x / (2.0 + x))


def expm1(x: Tensor) -> Tensor:
    """Compute exp(x) - 1 = 2 t / (1 - t) with t = tanh(x / 2), of x <= 1; near 0 no digit is lost."""
    t = torch.tanh(0.5 * x)
    return 2.0 * t / (1.0 - t)


def log_of_sum(distance: Tensor) -> Tensor:
    """Compute log(1 + exp(-distance)) of distances >= 0."""
    return log1p(torch.exp(-distance))


def log_sigmoid(x: Tensor) -> Tensor:
    """Compute log sigmoid(x) = min(x, 0) - log(1 + e^-|x|)."""
    return x.clamp(max=0.0) - log_of_sum(x.abs())


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:  # noqa: ARG001 -- exact beyond it too
    """Compute log(1 + e^(beta x)) / beta."""
    return x.clamp(min=0.0) + log_of_sum((beta * x).abs()) / beta


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """Compute log(e^a + e^b) of finite numbers."""
    return torch.maximum(a, b) + log_of_sum((a - b).abs())


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.log1p.default: log1p,
    aten.expm1.default: expm1,
    aten.log_sigmoid.default: log_sigmoid,
    aten.softplus.default: softplus,
    aten.logaddexp.default: logaddexp,
}
