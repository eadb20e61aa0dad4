"""The operator `funnelcast::asrg`: one layer of APEM's generator as one compiled call, forward and backward."""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from torch import Tensor

from funnelcast.native.build import library

__all__ = ["KernelResidual", "asrg", "asrg_usable"]

KernelResidual = Literal["none", "tokens", "shared", "gated"]
_RESIDUALS: tuple[KernelResidual, ...] = ("none", "tokens", "shared", "gated")

_LIBRARY = torch.library.Library("funnelcast", "DEF")
_LIBRARY.define(
    "asrg(Tensor x, Tensor? gate, Tensor a, Tensor u, Tensor? shared, Tensor scale, Tensor shift, float eps, "
    "int residual, bool keep) -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "asrg_backward(Tensor dy, Tensor x, Tensor? gate, Tensor a, Tensor u, Tensor? shared, Tensor scale, Tensor normed, "
    "Tensor rstd, int residual) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.compiler.assume_constant_result
def asrg_usable(x: Tensor) -> bool:
    """Say whether the compiled layer can take these tokens: float32 on the CPU, with a compiled library.

    Args:
        x: [B, n, D].
    """
    return x.device.type == "cpu" and x.dtype is torch.float32 and library() is not None


def asrg(
    x: Tensor,
    gate: Tensor | None,
    a: Tensor,
    u: Tensor,
    shared: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    residual: KernelResidual,
) -> Tensor:
    """Compute a layer, y_k = LN(sum_m softmax_n(z_k x_n A_mk) . (x_n U_m) + r_k) * scale + shift.

    Memory: backward computes scores and attention again, so a row keeps its output twice and one number a point.

    Args:
        x: [B, n, D] tokens.
        gate: [B, K] gates z, or None for 1.
        a: [D, M, K] key matrix times inducing points, with the scale of the scores.
        u: [D, M*D] value matrix times output matrix of all heads.
        shared: [K, D] residual that all rows share; not looked at unless `residual` asks for it.
        scale: [D] of the LayerNorm.
        shift: [D] of the LayerNorm.
        eps: > 0, of the LayerNorm.
        residual: r_k: nothing (`none`), token x_k (`tokens`, n = K), shared_k (`shared`), or z_k shared_k (`gated`, shared_k without gates).

    Returns:
        [B, K, D].

    Source: APEM paper, equations 14 to 17, folded.
    """
    keep = torch.is_grad_enabled()
    shared = shared if residual in ("shared", "gated") else None
    y: Tensor = torch.ops.funnelcast.asrg(
        x, gate, a, u, shared, scale, shift, eps, _RESIDUALS.index(residual), keep
    )[0]
    return y


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _sizes(x: Tensor, a: Tensor, residual: int) -> ctypes.Array[ctypes.c_int64]:
    B, n, D = x.shape
    _, M, K = a.shape
    return (ctypes.c_int64 * 7)(B, n, D, K, M, residual, torch.get_num_threads())


def _lanes() -> int:
    native = library()
    return 1 if native is None else int(native.funnelcast_lanes())


def _kept(x: Tensor, a: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Make room for what backward needs: [B, D, Kp] normalised outputs and [B, Kp] factors, Kp whole vectors."""
    (B, _, D), K, lanes = x.shape, a.shape[2], _lanes()
    padded = -(-K // lanes) * lanes
    return (x.new_empty(B, D, padded), x.new_empty(B, padded)) if keep else (x.new_empty(0), x.new_empty(0))


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _forward(
    x: Tensor,
    gate: Tensor | None,
    a: Tensor,
    u: Tensor,
    shared: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    residual: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    native = library()
    if native is None:
        raise RuntimeError("funnelcast::asrg should be called where asrg_usable() says so, received a call without it")
    held = _contiguous(x, gate, a, u, shared, scale, shift)
    y = x.new_empty(x.shape[0], a.shape[2], x.shape[2])
    normed, rstd = _kept(x, a, keep)
    kept = [_address(normed), _address(rstd)] if keep else [_address(None)] * 2
    native.funnelcast_asrg_forward(
        _sizes(x, a, residual), *map(_address, held), ctypes.c_float(eps), _address(y), *kept
    )
    return y, normed, rstd


def _forward_shapes(
    x: Tensor,
    gate: Tensor | None,
    a: Tensor,
    u: Tensor,
    shared: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    residual: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (x.new_empty(x.shape[0], a.shape[2], x.shape[2]), *_kept(x, a, keep))


def _backward(
    dy: Tensor,
    x: Tensor,
    gate: Tensor | None,
    a: Tensor,
    u: Tensor,
    shared: Tensor | None,
    scale: Tensor,
    normed: Tensor,
    rstd: Tensor,
    residual: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    native = library()
    if native is None:
        raise RuntimeError("funnelcast::asrg_backward should be called where the library is, received a call without")
    held = _contiguous(x, gate, a, u, shared, scale, normed, rstd, dy)
    out = _backward_shapes(dy, x, gate, a, u, shared, scale, normed, rstd, residual)
    dx, dgate, da, du, dshared, dscale, dshift = out
    native.funnelcast_asrg_backward(
        _sizes(x, a, residual),
        *map(_address, held),
        _address(dx),
        _address(None if gate is None else dgate),
        _address(da),
        _address(du),
        _address(None if shared is None else dshared),
        _address(dscale),
        _address(dshift),
    )
    return out


def _backward_shapes(
    dy: Tensor,
    x: Tensor,
    gate: Tensor | None,
    a: Tensor,
    u: Tensor,
    shared: Tensor | None,
    scale: Tensor,
    normed: Tensor,
    rstd: Tensor,
    residual: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = [x, gate, a, u, shared, scale, scale]
    return tuple(x.new_empty(0 if t is None else t.shape) for t in like)  # type: ignore[return-value]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gate, a, u, shared, scale, _, _, ctx.residual, _ = inputs
    ctx.save_for_backward(x, gate, a, u, shared, scale, output[1], output[2])


def _gradients(ctx: Any, dy: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    x, gate, a, u, shared, *rest = ctx.saved_tensors
    found = torch.ops.funnelcast.asrg_backward(dy, x, gate, a, u, shared, *rest, ctx.residual)
    dx, dgate, da, du, dshared, dscale, dshift = found
    absent = (None if gate is None else dgate, None if shared is None else dshared)
    return dx, absent[0], da, du, absent[1], dscale, dshift, None, None, None


_LIBRARY.impl("asrg", _forward, "CPU")
_LIBRARY.impl("asrg_backward", _backward, "CPU")
torch.library.register_fake("funnelcast::asrg", _forward_shapes, lib=_LIBRARY)
torch.library.register_fake("funnelcast::asrg_backward", _backward_shapes, lib=_LIBRARY)
torch.library.register_autograd("funnelcast::asrg", _gradients, setup_context=_setup, lib=_LIBRARY)
