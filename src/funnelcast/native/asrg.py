"""The operator `funnelcast::asrg`: one layer of APEM's generator as one compiled call, forward and backward."""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from torch import Tensor

from funnelcast.native.build import OPERATORS, address, check_shapes, checked, compiled
from funnelcast.native.gpu import LARGEST_TOKENS, LARGEST_WIDTH, gpu_checked

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

    Memory: backward computes scores and attention again; forward keeps Y and, of the same size, what heads read.
    Under autocast to bfloat16, a GPU takes all products in bfloat16; everything else stays float32.

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
        ValueError: a tensor is not float32, tensors are on several devices, shapes do not fit together, or, on a GPU,
            there are more than 128 tokens or D > 32.

    Source: APEM paper, equations 14 to 17.
    """
    number, keep = _RESIDUALS.index(residual), torch.is_grad_enabled()
    matrices = (key, value, output)
    if x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") is torch.bfloat16:
        matrices = (key.bfloat16(), value.bfloat16(), output.bfloat16())
    y: Tensor = torch.ops.funnelcast.asrg(x, gate, query, *matrices, scale, shift, eps, heads, number, keep)[0]
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


def _outputs(x: Tensor, query: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Make room for Y [B, K, D] and for what the heads read [B, D, Kp], Kp being K in whole vectors."""
    (B, _, D), K, lanes = x.shape, len(query), int(compiled().funnelcast_lanes())
    return x.new_empty(B, K, D), x.new_empty(B if keep else 0, D, -(-K // lanes) * lanes)


def _gpu_outputs(x: Tensor, query: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Make room for Y [B, K, D] and for what the heads read, of the same shape."""
    (B, _, D), K = x.shape, len(query)
    return x.new_empty(B, K, D), x.new_empty(B if keep else 0, K, D)


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
    made = _outputs(x, query, keep)
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


def _gpu_inputs(**tensors: Tensor | None) -> dict[str, Any]:
    """Return what kernels on a GPU read; the type of the three matrices is that of products."""
    x, key = tensors["x"], tensors["key"]
    assert x is not None and key is not None
    if x.shape[1] > LARGEST_TOKENS or x.shape[2] > LARGEST_WIDTH:
        largest = f"[B, {LARGEST_TOKENS}, {LARGEST_WIDTH}]"
        raise ValueError(f"x should be at most {largest} on a GPU, received {list(x.shape)}")
    if key.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"key should be torch.float32 or torch.bfloat16, received {key.dtype}")
    types = {name: key.dtype if name in ("key", "value", "output") else torch.float32 for name in tensors}
    return gpu_checked(types, **tensors)


def _gpu_forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    from funnelcast.native import asrg_gpu

    *tensors, eps, heads, residual, keep = inputs
    named = dict(zip(("x", "gate", "query", "key", "value", "output", "scale", "shift"), tensors, strict=True))
    _check(**named, heads=heads, residual=residual)
    held = _gpu_inputs(**named)
    y, kept = _gpu_outputs(named["x"], named["query"], keep)
    with torch.cuda.device_of(y):
        asrg_gpu.forward(**held, y=y, kept=kept if keep else None, eps=eps, heads=heads, residual=residual)
    return y, kept


def _gpu_backward(*inputs: Any) -> tuple[Tensor, ...]:
    from funnelcast.native import asrg_gpu

    *tensors, eps, heads, residual = inputs
    names = ("dy", "x", "gate", "query", "key", "value", "output", "scale", "kept")
    held = _gpu_inputs(**dict(zip(names, tensors, strict=True)))
    with torch.cuda.device_of(tensors[0]):
        return asrg_gpu.backward(**held, eps=eps, heads=heads, residual=residual)


def _backward_shapes(_: Tensor, x: Tensor, gate: Tensor | None, *weights: Any) -> tuple[Tensor, ...]:
    inputs = (x, gate, *weights[:5], weights[4])  # scale and shift are alike
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs)


def _forward_shapes(x: Tensor, _: Tensor | None, query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return (_gpu_outputs if x.device.type == "cuda" else _outputs)(x, query, rest[-1])


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
OPERATORS.impl("asrg", _gpu_forward, "CUDA")
OPERATORS.impl("asrg_backward", _gpu_backward, "CUDA")
torch.library.register_fake("funnelcast::asrg", _forward_shapes, lib=OPERATORS)
torch.library.register_fake("funnelcast::asrg_backward", _backward_shapes, lib=OPERATORS)
torch.library.register_autograd("funnelcast::asrg", _gradients, setup_context=_setup, lib=OPERATORS)
