"""The operator `funnelcast::asrg`: one layer of APEM's generator as one compiled call, forward and backward."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from funnelcast.native.build import OPERATORS, address, check_shapes, checked, compiled
from funnelcast.native.gpu import LARGEST_TOKENS, LARGEST_WIDTH, gpu_checked

__all__ = ["KernelResidual", "LayerWeights", "asrg"]

KernelResidual = Literal["none", "tokens", "shared", "gated"]
_RESIDUALS: tuple[KernelResidual, ...] = ("none", "tokens", "shared", "gated")

OPERATORS.define(
    "asrg(Tensor x, Tensor? gate, Tensor query, Tensor key, Tensor value, Tensor output, Tensor scale, Tensor shift, "
    "Tensor? readers, float eps, int heads, int residual, bool keep) -> (Tensor, Tensor, Tensor)"
)
OPERATORS.define(
    "asrg_backward(Tensor? dy, Tensor? dmeans, Tensor x, Tensor? gate, Tensor query, Tensor key, Tensor value, "
    "Tensor output, Tensor scale, Tensor shift, Tensor? readers, Tensor kept, float eps, int heads, int residual) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


class LayerWeights(NamedTuple):
    """What a layer learns, in the operators' order.

    Args:
        query: [K, D] inducing points I.
        key: [D, D] key matrix of all heads.
        value: [D, D] value matrix.
        output: [D, D] output matrix.
        scale: [D] of the LayerNorm.
        shift: [D] of the LayerNorm.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    scale: Tensor
    shift: Tensor


_WEIGHTS = (*LayerWeights._fields, "readers")


def asrg(
    x: Tensor,
    gate: Tensor | None,
    weights: LayerWeights,
    eps: float,
    heads: int,
    residual: KernelResidual,
    readers: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute a layer, Y = LN(MHA(z * I, X, X) + R), with MHA the attention without a query matrix, and read it.

    Readers find in Y what `funnelcast.native.read_patterns` says, while a row of Y is at hand.

    Memory: backward computes scores and attention again; forward keeps Y and, of about its size, what heads read.
    Under autocast to bfloat16, a GPU takes all products in bfloat16; everything else stays float32.

    Args:
        x: [B, n, D] tokens.
        gate: [B, K] gates z, or None for 1.
        weights: the layer's own, as `LayerWeights` says.
        eps: > 0, of the LayerNorm.
        heads: M, a divisor of D.
        residual: R: nothing (`none`), X (`tokens`, n = K), I (`shared`), or z * I (`gated`; I without gates).
        readers: [D, Q] queries that read Y, times their key matrix and the scale of their scores; None for none, and
            on a GPU.

    Returns:
        Y [B, K, D] and what the readers find [B, Q, D].

    Raises:
        ValueError: a tensor is not float32, tensors are on several devices, shapes do not fit together, or, on a GPU,
            there are readers, more than 128 tokens or D > 32.

    Source: APEM paper, equations 14 to 18.
    """
    number, keep = _RESIDUALS.index(residual), torch.is_grad_enabled()
    if x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") is torch.bfloat16:
        key, value, output = (matrix.bfloat16() for matrix in (weights.key, weights.value, weights.output))
        weights = weights._replace(key=key, value=value, output=output)
    y, means, _ = torch.ops.funnelcast.asrg(x, gate, *weights, readers, eps, heads, number, keep)
    return y, means


def _sizes(x: Tensor, query: Tensor, readers: Tensor | None, heads: int, residual: int) -> ctypes.Array[ctypes.c_int64]:
    (B, n, D), Q = x.shape, 0 if readers is None else readers.shape[1]
    return (ctypes.c_int64 * 8)(B, n, D, len(query), heads, residual, Q, torch.get_num_threads())


def _check(x: Tensor, gate: Tensor | None, weights: Sequence[Tensor | None], heads: int, residual: int) -> None:
    """Refuse what the kernel would read beyond its end."""
    query, key, value, output, scale, shift, readers = weights
    assert query is not None
    (B, n, D), K = x.shape, len(query)
    check_shapes(gate=(gate, (B, K)), query=(query, (K, D)), key=(key, (D, D)), value=(value, (D, D)))
    check_shapes(output=(output, (D, D)), scale=(scale, (D,)), shift=(shift, (D,)))
    if readers is not None:
        check_shapes(readers=(readers, (D, readers.shape[-1])))
    if heads < 1 or D % heads:
        raise ValueError(f"heads should be a divisor of {D}, received {heads}")
    if _RESIDUALS[residual] == "tokens" and n != K:
        raise ValueError(f"x should have {K} tokens, one an inducing point, received {n}")


def _gpu_outputs(x: Tensor, query: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Make room for Y [B, K, D] and for what the heads read, of the same shape; nobody else reads."""
    (B, _, D), K = x.shape, len(query)
    return x.new_empty(B, K, D), x.new_empty(B, 0, D), x.new_empty(B if keep else 0, K, D)


def _outputs(x: Tensor, query: Tensor, readers: Tensor | None, heads: int, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Make room for Y [B, K, D], what readers find and what backward wants [B, D + M, Kp], Kp: K in whole vectors."""
    (B, _, D), K, lanes = x.shape, len(query), int(compiled().funnelcast_lanes())
    found = x.new_empty(B, 0 if readers is None else readers.shape[1], D)
    return x.new_empty(B, K, D), found, x.new_empty(B if keep else 0, D + heads, -(-K // lanes) * lanes)


def _forward(
    x: Tensor,
    gate: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    scale: Tensor,
    shift: Tensor,
    readers: Tensor | None,
    eps: float,
    heads: int,
    residual: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = {"query": query, "key": key, "value": value, "output": output, "scale": scale, "shift": shift}
    _check(x, gate, (*weights.values(), readers), heads, residual)
    held = checked(x=x, gate=gate, **weights, readers=readers)
    made = _outputs(x, query, readers, heads, keep)
    sizes = _sizes(x, query, readers, heads, residual)
    compiled().funnelcast_asrg_forward(sizes, *map(address, held), ctypes.c_float(eps), *map(address, made))
    return made


def _backward(
    dy: Tensor | None, dmeans: Tensor | None, x: Tensor, gate: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    *weights, kept, eps, heads, residual = rest  # query, key, value, output, scale, shift, readers
    held = checked(x=x, gate=gate, **dict(zip(_WEIGHTS, weights, strict=True)), kept=kept, dy=dy, dmeans=dmeans)
    gradients = _backward_shapes(dy, dmeans, x, gate, *weights)
    sizes = _sizes(x, weights[0], weights[-1], heads, residual)
    compiled().funnelcast_asrg_backward(sizes, *map(address, held), ctypes.c_float(eps), *map(address, gradients))
    return gradients


def _gpu_inputs(**tensors: Tensor | None) -> dict[str, Any]:
    """Return what kernels on a GPU read; the type of the three matrices is that of products."""
    x, key = tensors["x"], tensors["key"]
    assert x is not None and key is not None
    if tensors.pop("readers") is not None:
        raise ValueError("readers should be None on a GPU, where funnelcast::read_patterns is their operator")
    if x.shape[1] > LARGEST_TOKENS or x.shape[2] > LARGEST_WIDTH:
        largest = f"[B, {LARGEST_TOKENS}, {LARGEST_WIDTH}]"
        raise ValueError(f"x should be at most {largest} on a GPU, received {list(x.shape)}")
    if key.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"key should be torch.float32 or torch.bfloat16, received {key.dtype}")
    types = {name: key.dtype if name in ("key", "value", "output") else torch.float32 for name in tensors}
    return gpu_checked(types, **tensors)


def _gpu_forward(x: Tensor, gate: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    from funnelcast.native import asrg_gpu

    *weights, eps, heads, residual, keep = rest
    _check(x, gate, weights, heads, residual)
    held = _gpu_inputs(x=x, gate=gate, **dict(zip(_WEIGHTS, weights, strict=True)))
    y, means, kept = _gpu_outputs(x, weights[0], keep)
    with torch.cuda.device_of(x):
        asrg_gpu.forward(**held, y=y, kept=kept if keep else None, eps=eps, heads=heads, residual=residual)
    return y, means, kept


def _gpu_backward(dy: Tensor, _: Tensor | None, x: Tensor, gate: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    from funnelcast.native import asrg_gpu

    *weights, kept, eps, heads, residual = rest
    named = dict(zip(_WEIGHTS, weights, strict=True))
    held = _gpu_inputs(x=x, gate=gate, **named, kept=kept, dy=dy)
    del held["shift"]
    with torch.cuda.device_of(x):
        return *asrg_gpu.backward(**held, eps=eps, heads=heads, residual=residual), x.new_empty(0)


def _backward_shapes(_: Tensor | None, __: Tensor | None, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, *rest[:8]))


def _forward_shapes(x: Tensor, _: Tensor | None, query: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    if x.device.type == "cuda":
        return _gpu_outputs(x, query, rest[-1])
    return _outputs(x, query, rest[5], rest[-3], rest[-1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.eps, ctx.heads, ctx.residual, _ = inputs
    ctx.set_materialize_grads(False)  # the last layer's Y has only readers, and nobody derives what is kept
    ctx.save_for_backward(*tensors, output[2])


def _gradients(ctx: Any, dy: Tensor | None, dmeans: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    found = torch.ops.funnelcast.asrg_backward(dy, dmeans, *saved, ctx.eps, ctx.heads, ctx.residual)
    wanted = (None if t is None else gradient for t, gradient in zip(saved[:-1], found, strict=True))
    return *wanted, None, None, None, None


OPERATORS.impl("asrg", _forward, "CPU")
OPERATORS.impl("asrg_backward", _backward, "CPU")
OPERATORS.impl("asrg", _gpu_forward, "CUDA")
OPERATORS.impl("asrg_backward", _gpu_backward, "CUDA")
torch.library.register_fake("funnelcast::asrg", _forward_shapes, lib=OPERATORS)
torch.library.register_fake("funnelcast::asrg_backward", _backward_shapes, lib=OPERATORS)
torch.library.register_autograd("funnelcast::asrg", _gradients, setup_context=_setup, lib=OPERATORS)
