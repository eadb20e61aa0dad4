"""The operator `funnelcast::read_patterns` on a GPU: what its kernels are compiled for, and how they are started."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from funnelcast.native import gpu
from funnelcast.native.gpu import dot_precision, padded
from funnelcast.native.pattern_kernels import pattern_backward_kernel, pattern_forward_kernel

__all__ = ["backward", "forward"]


def _sizes(y: Tensor, a: Tensor) -> dict[str, Any]:
    """What both kernels are compiled for."""
    K, D, Q = y.shape[1], *a.shape
    blocks = {"BK": padded(K), "BD": padded(D), "BQ": padded(Q)}
    return {"K": K, "D": D, "Q": Q, "precision": dot_precision(), **blocks, "num_warps": 4, "num_stages": 2}


def forward(y: Tensor, a: Tensor, means: Tensor) -> None:
    """Write what the queries read.

    Args:
        y: [B, K, D] float32, contiguous as all others.
        a: [D, Q] float32.
        means: [B, Q, D] float32, to be written.
    """
    if len(y):
        pattern_forward_kernel[(min(len(y), gpu.PROGRAMS),)](y, a, means, len(y), **_sizes(y, a))


def backward(dmeans: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of y and a.

    Args:
        dmeans: [B, Q, D] float32, contiguous as all others.
        y: as in `forward`.
        a: ditto.
    """
    programs, dy = min(len(y), gpu.PROGRAMS), torch.empty_like(y)
    sums = a.new_empty(programs, *a.shape)
    if programs:
        pattern_backward_kernel[(programs,)](dmeans, y, a, dy, sums, len(y), **_sizes(y, a))
    return dy, sums.sum(0)
