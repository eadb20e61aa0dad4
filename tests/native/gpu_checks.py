"""What test_gpu.py lets other processes do: kernels for GPUs in Triton's interpreter, and through Triton's compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from funnelcast.native import gpu, pattern
from funnelcast.native.asrg import _gpu_backward, _gpu_forward

from .layers import gradients, layer_inputs, plain_layer

RESIDUALS = ("none", "tokens", "shared", "gated")


def compare_layers(
    rows: int, n: int, width: int, points: int, heads: int, residual: str, gated: bool, seed: int = 0,
    *, number: torch.dtype = torch.float32, tolerance: float = 1e-5,
) -> None:  # fmt: skip
    """The GPU's implementation of the operator against the equations in float64, relative to the largest number."""
    torch.manual_seed(seed)
    inputs: list[Any] = layer_inputs(rows, n, width, points)
    inputs = [value.to(number) if 3 <= i <= 5 else value for i, value in enumerate(inputs)]
    if not gated:
        inputs[1] = None
    double = [None if value is None else value.double().requires_grad_() for value in inputs]
    rest = (1e-5, heads, RESIDUALS.index(residual))
    y, means, kept = _gpu_forward(*inputs, None, *rest, True)
    equations: Callable[..., Tensor] = plain_layer
    expected = equations(*double, 1e-5, heads, residual)
    seen = torch.randn_like(y)
    *found, for_readers = _gpu_backward(seen, None, *inputs, None, kept, *rest)
    assert for_readers.shape == (0,) and means.shape == (rows, 0, width)
    given = [value for value in double if value is not None]
    wanted = gradients(expected, given, seen)
    if not gated:
        assert found[1].shape == (0,)
        del found[1]
    for mine, theirs in zip((y, *found), (expected, *wanted), strict=True):
        largest = max(1.0, float(theirs.detach().abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * largest)
    assert [g.dtype for g in found[-5:-2]] == [number] * 3
    without, _, nothing = _gpu_forward(*inputs, None, *rest, False)
    assert torch.equal(without, y) and nothing.numel() == 0


def compare_in_bfloat16(*arguments: Any) -> None:
    """Triton's interpreter multiplies the bits of bfloat16 (issue 11584 there); so it gets the same numbers widened."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    def dot(builder: Any, left: Any, right: Any, *rest: Any) -> Any:
        wide = (builder.cast_impl(side, tl.float32) if side.dtype == tl.bfloat16 else side for side in (left, right))
        return multiply(builder, *wide, *rest)

    multiply = InterpreterBuilder.create_dot
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", dot)
        compare_layers(*arguments, number=torch.bfloat16, tolerance=2e-2)


def compare_with_few_programs(*arguments: Any) -> None:
    """As many rows a program as on a GPU with a large batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "PROGRAMS", 2)
        compare_layers(7, *arguments)
        compare_patterns(7, 5, 6, 3, 0)


def compare_patterns(rows: int, points: int, width: int, queries: int, seed: int) -> None:
    """The GPU's implementation of `read_patterns` against a softmax in float64."""
    torch.manual_seed(seed)
    y, a = torch.randn(rows, points, width), torch.randn(width, queries)
    double = [value.double().requires_grad_() for value in (y, a)]
    expected = (double[0] @ double[1]).softmax(dim=1).transpose(1, 2) @ double[0]
    seen = torch.randn(rows, queries, width)
    found = (pattern._gpu_forward(y, a), *pattern._gpu_backward(seen, y, a))
    for mine, theirs in zip(found, (expected, *gradients(expected, double, seen)), strict=True):
        largest = max(1.0, float(theirs.detach().abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5 * largest)


def refusal(changed: dict[int, Tensor], heads: int = 2, residual: int = 2) -> str:
    """What the operator says to inputs of which some were changed; the last are the readers."""
    inputs: list[Any] = [changed.get(i, value) for i, value in enumerate([*layer_inputs(2, 5, 6, 4), None])]
    try:
        _gpu_forward(*inputs, 1e-5, heads, residual, True)
    except ValueError as error:
        return str(error)
    return "nothing"


def compile_layer(n: int, width: int, points: int, heads: int, residual: int, number: str, precision: str) -> list[int]:
    """Compile the layer's kernels for an H100, which takes no GPU; returns their shared memory in bytes."""
    from funnelcast.native import asrg_gpu, asrg_kernels

    x, query, key = torch.empty(1, n, width), torch.empty(points, width), torch.empty(width, width)
    gpu_type = {"fp32": torch.float32, "bf16": torch.bfloat16}[number]
    torch.backends.cuda.matmul.fp32_precision = precision
    sizes = asrg_gpu._sizes(x, query, key.to(gpu_type), heads, residual)
    kernels = ("forward_kernel", "norm_backward_kernel", "attention_backward_kernel")
    matrices = dict.fromkeys(("key", "value", "output"), f"*{number}")
    return [_compile(getattr(asrg_kernels, name), sizes, matrices) for name in kernels]


def compile_patterns(points: int, width: int, queries: int) -> list[int]:
    """The same for the kernels of `read_patterns`."""
    from funnelcast.native import pattern_gpu, pattern_kernels

    sizes = pattern_gpu._sizes(torch.empty(1, points, width), torch.empty(width, queries))
    kernels = (pattern_kernels.pattern_forward_kernel, pattern_kernels.pattern_backward_kernel)
    return [_compile(kernel, sizes, {}) for kernel in kernels]


def _compile(kernel: Any, sizes: dict[str, Any], types: dict[str, str]) -> int:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {(i,): sizes[name] for i, name in enumerate(kernel.arg_names) if name in sizes}
    known = types | {"rows": "i32", "eps": "fp32"} | dict.fromkeys(sizes, "constexpr")
    signature = {name: known.get(name, "*fp32") for name in kernel.arg_names}
    options = {name: sizes[name] for name in ("num_warps", "num_stages")}
    source = ASTSource(kernel, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"]
    return int(compiled.metadata.shared)
