"""The operator `funnelcast::asrg` on a GPU: what its kernels are compiled for, and how they are started."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from funnelcast.native import gpu
from funnelcast.native.asrg_kernels import attention_backward_kernel, forward_kernel, norm_backward_kernel
from funnelcast.native.gpu import SCORES, dot_precision, padded

__all__ = ["backward", "forward"]


def _sizes(x: Tensor, query: Tensor, key: Tensor, heads: int, residual: int) -> dict[str, Any]:
    """What all three kernels are compiled for."""
    n, D, K = x.shape[1], x.shape[2], len(query)
    BN = padded(n)
    return {
        "n": n, "D": D, "K": K, "heads": heads, "residual": residual, "precision": dot_precision(), "BN": BN,
        "BD": padded(D), "BK": max(16, min(padded(K), SCORES // BN)), "BE": padded(D // heads),
        "factor": math.log2(math.e) / math.sqrt(D // heads),
        # Products of float32 without tensor cores need more registers; with four warps they would not hold the scores.
        "num_warps": 8 if key.dtype is torch.float32 and dot_precision() == "ieee" else 4, "num_stages": 2,
    }  # fmt: skip


def forward(
    x: Tensor, gate: Tensor | None, query: Tensor, key: Tensor, value: Tensor, output: Tensor, scale: Tensor,
    shift: Tensor, y: Tensor, kept: Tensor | None, eps: float, heads: int, residual: int,
) -> None:  # fmt: skip
    """Write a layer's output.

    Args:
        x: [B, n, D] float32, contiguous as all others; the arguments up to `shift` are the operator's.
        gate: [B, K] or None.
        query: [K, D].
        key: [D, D] float32 or bfloat16, the type in which all products are taken.
        value: [D, D] of the same type.
        output: [D, D] of the same type.
        scale: [D].
        shift: [D].
        y: [B, K, D] float32, to be written.
        kept: [B, K, D] float32, to be written for `backward`; None without one.
        eps: > 0.
        heads: M.
        residual: number of the residual.
    """
    sizes, rows = _sizes(x, query, key, heads, residual), len(x)
    if rows:
        grid = (min(rows, gpu.PROGRAMS), triton.cdiv(sizes["K"], sizes["BK"]))
        forward_kernel[grid](x, gate, query, key, value, output, scale, shift, y, kept, rows, eps, **sizes)


def backward(
    dy: Tensor, x: Tensor, gate: Tensor | None, query: Tensor, key: Tensor, value: Tensor, output: Tensor,
    scale: Tensor, kept: Tensor, eps: float, heads: int, residual: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of x, gate (empty without gates), query, key, value, output, scale and shift.

    Args:
        dy: [B, K, D] float32, contiguous as all others.
        x: these and the following as in `forward`.
        gate: ditto.
        query: ditto.
        key: ditto.
        value: ditto.
        output: ditto.
        scale: ditto.
        kept: [B, K, D] from `forward`.
        eps: > 0.
        heads: M.
        residual: number of the residual.
    """
    sizes, rows = _sizes(x, query, key, heads, residual), len(x)
    D, K, BK = sizes["D"], sizes["K"], sizes["BK"]
    programs, blocks = min(rows, gpu.PROGRAMS), triton.cdiv(K, BK)
    dx, dgate = torch.empty_like(x), x.new_empty(0) if gate is None else torch.empty_like(gate)
    dout = torch.empty_like(dy)
    sums = x.new_empty(programs, blocks, 3 * D * D + 2 * D + 2 * BK * D)
    if rows:
        shared = {
            name: sizes[name]
            for name in ("n", "D", "K", "residual", "precision", "BD", "BK", "num_warps", "num_stages")
        }
        norm_backward_kernel[(programs, blocks)](
            dy, x, gate, query, output, scale, kept, dout, dgate, sums, rows, eps, **shared
        )
        attention_backward_kernel[(programs,)](x, gate, query, key, value, output, dout, dx, dgate, sums, rows, **sizes)
    *matrices, norm, points = sums.sum(0).split([D * D] * 3 + [2 * D, 2 * BK * D], dim=1)
    dkey, dvalue, doutput = (part.sum(0).view(D, D).to(key.dtype) for part in matrices)
    dscale, dshift = norm.sum(0).view(2, D)
    dquery = points.view(blocks, 2, BK, D).sum(1).view(-1, D)[:K]
    return dx, dgate, dquery, dkey, dvalue, doutput, dscale, dshift
