"""The operator `funnelcast::read_patterns`: what all Pattern Selectors read from a layer, as one compiled call."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from funnelcast.native.build import OPERATORS, address, check_shapes, checked, compiled
from funnelcast.native.gpu import gpu_checked

__all__ = ["read_patterns"]

OPERATORS.define("read_patterns(Tensor y, Tensor a) -> Tensor")
OPERATORS.define("read_patterns_backward(Tensor dmeans, Tensor y, Tensor a) -> (Tensor, Tensor)")


def read_patterns(y: Tensor, a: Tensor) -> Tensor:
    """Average a layer's tokens by attention, G_q = sum_k softmax_k(y_k . a_q) y_k; backward computes the softmax again.

    Args:
        y: [B, K, D] tokens.
        a: [D, Q] queries, times the key matrix and the scale of the scores.

    Returns:
        [B, Q, D].

    Raises:
        ValueError: a tensor is not float32, tensors are on several devices, or shapes do not fit together.

    Source: APEM paper, equation 18, folded.
    """
    means: Tensor = torch.ops.funnelcast.read_patterns(y, a)
    return means


def _sizes(y: Tensor, a: Tensor) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * 5)(*y.shape, a.shape[1], torch.get_num_threads())


def _forward_shapes(y: Tensor, a: Tensor) -> Tensor:
    return y.new_empty(y.shape[0], a.shape[1], y.shape[2])


def _forward(y: Tensor, a: Tensor) -> Tensor:
    check_shapes(a=(a, (y.shape[2], a.shape[1])))
    held, means = checked(y=y, a=a), _forward_shapes(y, a)
    compiled().funnelcast_pattern_forward(_sizes(y, a), *map(address, held), address(means))
    return means


def _backward_shapes(_: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), a.new_empty(a.shape)


def _backward(dmeans: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    held = checked(y=y, a=a, dmeans=dmeans)
    made = _backward_shapes(dmeans, y, a)
    compiled().funnelcast_pattern_backward(_sizes(y, a), *map(address, held), *map(address, made))
    return made


def _gpu_forward(y: Tensor, a: Tensor) -> Tensor:
    from funnelcast.native import pattern_gpu

    check_shapes(a=(a, (y.shape[2], a.shape[1])))
    held = gpu_checked({}, y=y, a=a)
    means = _forward_shapes(y, a)
    with torch.cuda.device_of(y):
        pattern_gpu.forward(**held, means=means)
    return means


def _gpu_backward(dmeans: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    from funnelcast.native import pattern_gpu

    held = gpu_checked({}, dmeans=dmeans, y=y, a=a)
    with torch.cuda.device_of(y):
        return pattern_gpu.backward(**held)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001  torch names its arguments
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dmeans: Tensor) -> tuple[Tensor, Tensor]:
    y, a = ctx.saved_tensors
    found: tuple[Tensor, Tensor] = torch.ops.funnelcast.read_patterns_backward(dmeans, y, a)
    return found


OPERATORS.impl("read_patterns", _forward, "CPU")
OPERATORS.impl("read_patterns_backward", _backward, "CPU")
OPERATORS.impl("read_patterns", _gpu_forward, "CUDA")
OPERATORS.impl("read_patterns_backward", _gpu_backward, "CUDA")
torch.library.register_fake("funnelcast::read_patterns", _forward_shapes, lib=OPERATORS)
torch.library.register_fake("funnelcast::read_patterns_backward", _backward_shapes, lib=OPERATORS)
torch.library.register_autograd("funnelcast::read_patterns", _gradients, setup_context=_setup, lib=OPERATORS)
