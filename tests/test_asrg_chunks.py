"""The layer in chunks, against its equations and against numerical derivatives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.native.layers import gradients, layer_inputs, plain_layer
from torch import Tensor

from funnelcast import asrg_chunks
from funnelcast.asrg_chunks import asrg_in_chunks
from funnelcast.native import KernelResidual, LayerWeights

# Called with lists of tensors, which its signature cannot take.
equations: Callable[..., Tensor] = plain_layer
RESIDUALS: list[KernelResidual] = ["none", "tokens", "shared", "gated"]


def layer(*arguments: Any, **options: Any) -> Tensor:
    x, gate, *rest = arguments
    return asrg_in_chunks(x, gate, LayerWeights(*rest[:6]), *rest[6:], **options)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 7), st.integers(1, 12), st.integers(1, 6), st.integers(1, 12), st.integers(1, 3),
    st.sampled_from(RESIDUALS), st.booleans(), st.integers(1, 4), st.booleans(), st.integers(0, 2**16),
)  # fmt: skip
def test_any_size_and_any_chunk(
    rows: int, n: int, size: int, points: int, heads: int, residual: KernelResidual, gated: bool, chunk: int,
    keep: bool, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    n = points if residual == "tokens" else n
    inputs = layer_inputs(rows, n, size * heads, points, dtype=torch.float64)
    inputs = [value.requires_grad_() for value in inputs]
    given_inputs = [v if i != 1 or gated else None for i, v in enumerate(inputs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asrg_chunks, "_KEPT_BYTES", 1 << 30 if keep else -1)
        ours = layer(*given_inputs, 1e-5, heads, residual, rows=chunk)
    expected = equations(*given_inputs, 1e-5, heads, residual)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    seen = torch.randn_like(ours)
    for mine, theirs in zip(gradients(ours, inputs, seen), gradients(expected, inputs, seen), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7 * (1.0 + float(theirs.detach().norm())))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_the_papers_sizes_in_float32(residual: KernelResidual) -> None:
    torch.manual_seed(0)
    single = [v.requires_grad_() for v in layer_inputs(70, 64 if residual == "tokens" else 23, 18, 64)]
    double = [v.detach().double().requires_grad_() for v in single]
    ours, expected = layer(*single, 1e-5, 2, residual), equations(*double, 1e-5, 2, residual)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=2e-5)
    seen = torch.randn_like(ours)
    for mine, theirs in zip(gradients(ours, single, seen), gradients(expected, double, seen), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5 * max(1.0, float(theirs.abs().max())))


def test_a_second_backward_finds_the_same() -> None:
    torch.manual_seed(1)
    inputs = [v.requires_grad_() for v in layer_inputs(5, 6, 4, 3)]
    total = layer(*inputs, 1e-5, 2, "gated", rows=2).square().sum()
    first = torch.autograd.grad(total, inputs, retain_graph=True)
    for before, after in zip(first, torch.autograd.grad(total, inputs), strict=True):
        assert torch.equal(before, after)


def test_threads_share_the_rows() -> None:
    torch.manual_seed(3)
    inputs = [value.requires_grad_() for value in layer_inputs(11, 5, 4, 3)]
    found, former = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            y = layer(*inputs, 1e-5, 2, "gated", rows=2)
            found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
        finally:
            torch.set_num_threads(former)
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(three, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scoring", "kept"), [(False, 3), (True, 0)])
def test_attention_is_kept_for_a_gradient_alone(monkeypatch: pytest.MonkeyPatch, scoring: bool, kept: int) -> None:
    """Chunks that are still alive after forward hold what backward would need."""
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    build = asrg_chunks._Chunk.__init__

    def watched(chunk: asrg_chunks._Chunk, *arguments: Any) -> None:
        alive.add(chunk)
        build(chunk, *arguments)

    monkeypatch.setattr(asrg_chunks._Chunk, "__init__", watched)
    inputs = [v.requires_grad_() for v in layer_inputs(6, 5, 4, 3)]
    with torch.set_grad_enabled(not scoring):
        y = layer(*inputs, 1e-5, 2, "gated", rows=2)
    gc.collect()
    assert len(alive) == kept and y.requires_grad is not scoring
