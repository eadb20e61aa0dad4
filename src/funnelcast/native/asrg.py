"""The operator `funnelcast::asrg`: one layer of APEM's generator as one compiled call, forward and backward."""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from torch import Tensor

from funnelcast.native.build import OPERATORS, address, check_shapes, checked, compiled

__all__ = ["KernelResidual", "asrg"]

KernelResidual = Literal["none", "tokens", "shared", "gated"]
_RESIDUALS: tuple[KernelResidual, ...] = ("none", "tokens", "shared", "gated")

OPERATORS.define(
    "asrg(Tensor x, Tensor? gate, Tensor query, Tensor key, Tensor value, Tensor output, Tensor scale, Tensor shift, "
    "float eps, int heads, int residual, bool keep) -> (Tensor, Tensor)"
)
OPERATORS.define(
    "asrg_backward(Tensor dy, Tensor x, Tensor? gate, Tensor query, Tensor key, Tensor value, Tensor output, "
    "Tensor scale, Tensor kept, float eps, int heads, int residual) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def asrg(
    x: Tensor,
    gate: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    heads: int,
    residual: KernelResidual,
) -> Tensor:
    """Compute a layer, Y = LN(MHA(z * I, X, X) + R), with MHA the attention without a query matrix.

    Memory: backward computes scores and attention again; forward keeps Y and, of about its size, what heads read.

    Args:
        x: [B, n, D] tokens.
        gate: [B, K] gates z, or None for 1.
        query: [K, D] inducing points I.
        key: [D, D] key matrix of all heads.
        value: [D, D] value matrix.
        output: [D, D] output matrix.
        scale: [D] of the LayerNorm.
        shift: [D] of the LayerNorm.
        eps: > 0, of the LayerNorm.
        heads: M, a divisor of D.
        residual: R: nothing (`none`), X (`tokens`, n = K), I (`shared`), or z * I (`gated`; I without gates).

    Returns:
        [B, K, D].

    Raises:
        ValueError: a tensor is not float32 on the CPU, or shapes do not fit together.

    Source: APEM paper, equations 14 to 17.
    """
    number, keep = _RESIDUALS.index(residual), torch.is_grad_enabled()
    weights = (query, key, value, output, scale, shift)
    y: Tensor = torch.ops.funnelcast.asrg(x, gate, *weights, eps, heads, number, keep)[0]
    return y


def _sizes(x: Tensor, query: Tensor, heads: int, residual: int) -> ctypes.Array[ctypes.c_int64]:
    B, n, D = x.shape
    return (ctypes.c_int64 * 7)(B, n, D, len(query), heads, residual, torch.get_num_threads())


def _check(
    x: Tensor,
    gate: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    scale: Tensor,
    shift: Tensor,
    heads: int,
    residual: int,
) -> None:
    """Refuse what the kernel would read beyond its end."""
    (B, n, D), K = x.shape, len(query)
    check_shapes(gate=(gate, (B, K)), query=(query, (K, D)), key=(key, (D, D)), value=(value, (D, D)))
    check_shapes(output=(output, (D, D)), scale=(scale, (D,)), shift=(shift, (D,)))
    if heads < 1 or D % heads:
        raise ValueError(f"heads should be a divisor of {D}, received {heads}")
    if _RESIDUALS[residual] == "tokens" and n != K:
        raise ValueError(f"x should have {K} tokens, one an inducing point, received {n}")


def _outputs(x: Tensor, query: Tensor, heads: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Make room for Y [B, K, D] and for what backward wants [B, D + M, Kp], Kp being K in whole vectors."""
    (B, _, D), K, lanes = x.shape, len(query), int(compiled().funnelcast_lanes())
    return x.new_empty(B, K, D), x.new_empty(B if keep else 0, D + heads, -(-K // lanes) * lanes)


def _forward(
    x: Tensor,
    gate: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    heads: int,
    residual: int,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    _check(x, gate, query, key, value, output, scale, shift, heads, residual)
    held = checked(x=x, gate=gate, query=query, key=key, value=value, output=output, scale=scale, shift=shift)
    made = _outputs(x, query, heads, keep)
    addresses = map(address, made)
    compiled().funnelcast_asrg_forward(
        _sizes(x, query, heads, residual), *map(address, held), ctypes.c_float(eps), *addresses
    )
    return made


def _backward(
    dy: Tensor,
    x: Tensor,
    gate: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    scale: Tensor,
    kept: Tensor,
    eps: float,
    heads: int,
    residual: int,
) -> tuple[Tensor, ...]:
    held = checked(x=x, gate=gate, query=query, key=key, value=value, output=output, scale=scale, kept=kept, dy=dy)
    gradients = _backward_shapes(dy, x, gate, query, key, value, output, scale)
    sizes = _sizes(x, query, heads, residual)
    compiled().funnelcast_asrg_backward(sizes, *map(address, held), ctypes.c_float(eps), *map(address, gradients))
    return gradients


def _backward_shapes(_: Tensor, x: Tensor, gate: Tensor | None, *weights: Any) -> tuple[Tensor, ...]:
    query, key, value, output, scale = weights[:5]
    return tuple(x.new_empty(0 if t is None else t.shape) for t in (x, gate, query, key, value, output, scale, scale))


def _forward_shapes(x: Tensor, _: Tensor | None, query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _outputs(x, query, rest[-3], rest[-1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, ctx.eps, ctx.heads, ctx.residual, _ = inputs  # all but the shift
    ctx.set_materialize_grads(False)  # nobody derives what is kept for backward
    ctx.save_for_backward(*tensors, output[1])


def _gradients(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    found = torch.ops.funnelcast.asrg_backward(dy, *ctx.saved_tensors, ctx.eps, ctx.heads, ctx.residual)
    gate = found[1] if ctx.saved_tensors[1] is not None else None
    return found[0], gate, *found[2:], None, None, None, None


OPERATORS.impl("asrg", _forward, "CPU")
OPERATORS.impl("asrg_backward", _backward, "CPU")
torch.library.register_fake("funnelcast::asrg", _forward_shapes, lib=OPERATORS)
torch.library.register_fake("funnelcast::asrg_backward", _backward_shapes, lib=OPERATORS)
torch.library.register_autograd("funnelcast::asrg", _gradients, setup_context=_setup, lib=OPERATORS)
