"""The compiled layer against the equations in float64, and as an operator of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from funnelcast import apem_layers
from funnelcast.apem_layers import Asrg
from funnelcast.native import asrg
from funnelcast.native.asrg import KernelResidual, LayerWeights

from .layers import gradients, layer_inputs, plain_layer

# Called with lists of tensors, which its signature cannot take.
equations: Callable[..., Tensor] = plain_layer
RESIDUALS: list[KernelResidual] = ["none", "tokens", "shared", "gated"]


def both(*arguments: Any) -> tuple[Tensor, Tensor]:
    x, gate, *rest = arguments
    return asrg(x, gate, LayerWeights(*rest[:6]), *rest[6:])


def layer(*arguments: Any) -> Tensor:
    return both(*arguments)[0]


def assert_same(
    rows: int, n: int, width: int, points: int, heads: int, residual: KernelResidual, *, gated: bool = True,
    readers: int = 0, tokens_matter: bool = True,
) -> None:  # fmt: skip
    """Outputs to 2e-5 and gradients to 1e-5 of the largest, with tokens far from the origin too.

    Args:
        readers: how many queries read the layer.
        tokens_matter: whether the layer's tokens go into the result besides what readers find.
    """
    single = [value.requires_grad_() for value in layer_inputs(rows, n, width, points)]
    double = [value.detach().double().requires_grad_() for value in single]
    chosen = [[v if i != 1 or gated else None for i, v in enumerate(values)] for values in (single, double)]
    queries = torch.randn(width, readers).requires_grad_()
    wide = queries.detach().double().requires_grad_()
    y, means = both(*chosen[0], 1e-5, heads, residual, queries if readers else None)
    expected = equations(*chosen[1], 1e-5, heads, residual)
    found = (expected @ wide).softmax(dim=1).transpose(1, 2) @ expected  # [B, Q, D]
    assert means.shape == (rows, readers, width)
    ours = torch.cat([y, means], dim=1) if tokens_matter else means
    theirs = torch.cat([expected, found], dim=1) if tokens_matter else found
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-5)
    seen = torch.randn_like(ours)
    pairs = zip(gradients(ours, [*single, queries], seen), gradients(theirs, [*double, wide], seen), strict=True)
    for mine, exact in pairs:
        tolerance = 1e-5 * max(1.0, float(exact.abs().max())) if exact.numel() else 0.0
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("gated", [True, False])
def test_the_papers_sizes(residual: KernelResidual, gated: bool) -> None:
    torch.manual_seed(0)
    assert_same(5, 64 if residual == "tokens" else 23, 18, 64, 2, residual, gated=gated, readers=4)


def test_the_last_layer_has_readers_alone() -> None:
    torch.manual_seed(5)
    assert_same(5, 64, 18, 64, 2, "tokens", readers=4, tokens_matter=False)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 40), st.integers(1, 12), st.integers(1, 40), st.integers(1, 3),
    st.sampled_from(RESIDUALS), st.booleans(), st.integers(0, 9), st.integers(0, 2**16),
)  # fmt: skip
def test_any_size(
    rows: int,
    n: int,
    size: int,
    points: int,
    heads: int,
    residual: KernelResidual,
    gated: bool,
    readers: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    if size * heads > 2:  # the normalisation of one or two numbers has a gradient of nearly 0 / 0
        n = points if residual == "tokens" else n
        assert_same(rows, n, size * heads, points, heads, residual, gated=gated, readers=readers)


@pytest.mark.parametrize(
    ("number", "changed", "message"),
    [
        (0, lambda v: v.double(), "x should be float32 on the CPU, received torch.float64"),
        (1, lambda v: v.bfloat16(), "gate should be float32 on the CPU, received torch.bfloat16"),
        (1, lambda v: v[:, 1:], r"gate should be \[2, 4\], received \[2, 3\]"),
        (3, lambda v: v[1:], r"key should be \[6, 6\], received \[5, 6\]"),
        (7, lambda v: v[1:], r"shift should be \[6\], received \[5\]"),
    ],
)
def test_what_does_not_fit_is_refused(number: int, changed: Callable[[Tensor], Tensor], message: str) -> None:
    inputs = [changed(v) if i == number else v for i, v in enumerate(layer_inputs(2, 5, 6, 4))]
    with pytest.raises(ValueError, match=message):
        layer(*inputs, 1e-5, 2, "shared")


def test_heads_and_tokens_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="heads should be a divisor of 6, received 4"):
        layer(*layer_inputs(2, 5, 6, 4), 1e-5, 4, "shared")
    with pytest.raises(ValueError, match="x should have 4 tokens, one an inducing point, received 5"):
        layer(*layer_inputs(2, 5, 6, 4), 1e-5, 2, "tokens")
    with pytest.raises(ValueError, match=r"readers should be \[6, 3\], received \[5, 3\]"):
        layer(*layer_inputs(2, 5, 6, 4), 1e-5, 2, "shared", torch.zeros(5, 3))


def test_no_rows() -> None:
    inputs = [value.requires_grad_() for value in layer_inputs(0, 3, 4, 5)]
    y = layer(*inputs, 1e-5, 2, "shared")
    assert y.shape == (0, 5, 4)
    assert not any(g.any() for g in gradients(y, inputs, torch.zeros_like(y)))


def test_large_scores_stay_finite() -> None:
    """One token takes all the attention: scores differ by thousands, their exponentials would overflow."""
    torch.manual_seed(1)
    inputs = [value * (300.0 if i == 0 else 1.0) for i, value in enumerate(layer_inputs(3, 9, 6, 5))]
    inputs = [value.requires_grad_() for value in inputs]
    y = layer(*inputs, 1e-5, 2, "shared")
    expected = equations(*(value.detach().double() for value in inputs), 1e-5, 2, "shared")
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.isfinite(g).all() for g in gradients(y, inputs, torch.ones_like(y)))


def test_threads_do_not_change_a_rows_numbers() -> None:
    torch.manual_seed(2)
    inputs = [value.requires_grad_() for value in layer_inputs(37, 11, 6, 20)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = layer(*inputs, 1e-5, 2, "gated")
            results.append([y.detach(), *gradients(y, inputs, torch.ones_like(y))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for number, (a, b) in enumerate(zip(results[0], other, strict=True)):
            if number < 3:  # outputs and the gradients of tokens and gates belong to one row each
                assert torch.equal(a, b)
            else:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=5e-5)  # sums of 740 numbers around 1


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_other_machines_get_the_same_numbers(capability: str) -> None:
    """The same source for 4, 8 and 16 lanes."""
    check = (
        "import torch; from tests.native.test_asrg import assert_same; torch.manual_seed(0); "
        "assert_same(3, 23, 18, 64, 2, 'shared', readers=4); assert_same(2, 37, 6, 37, 3, 'tokens', readers=7); "
        "from funnelcast.native import native_state; print(native_state().line)"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"default": "plain", "avx2": "avx2"}[capability] in done.stdout


def test_torch_finds_nothing_wrong_with_the_operator() -> None:
    inputs = [value.requires_grad_() for value in layer_inputs(2, 5, 6, 4)]
    for readers in (torch.randn(6, 3).requires_grad_(), None):
        torch.library.opcheck(torch.ops.funnelcast.asrg.default, (*inputs, readers, 1e-5, 2, 2, True))


class Two(nn.Module):
    """A first layer and one that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Asrg(7, 6, 5, 2, "inducing"), Asrg(5, 6, 5, 2, None)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x, gate, None, None)[0], gate, None, None)[0]
        return y


def test_compile_and_export_see_one_operator() -> None:
    torch.manual_seed(3)
    module, x, gate = Two(), torch.randn(3, 7, 6), torch.rand(3, 5)
    rows = torch.export.Dim("B", min=1, max=1 << 20)
    program = torch.export.export(module.eval(), (x, gate), dynamic_shapes=({0: rows}, {0: rows}))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("funnelcast.asrg.default") == 2 and not any("softmax" in target for target in targets)
    many = torch.randn(9, 7, 6), torch.rand(9, 5)
    torch.testing.assert_close(program.module()(*many), module(*many))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    compiled(x, gate).sum().backward()
    found = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    module(x, gate).sum().backward()
    for mine, parameter in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


@pytest.mark.parametrize("residual", ["inducing", "gated", "none", None])
def test_the_folded_form_is_the_fallback(
    monkeypatch: pytest.MonkeyPatch, residual: apem_layers.Residual | None
) -> None:
    torch.manual_seed(4)
    module, x, gate = Asrg(5, 6, 5, 2, residual), torch.randn(4, 5, 6, requires_grad=True), torch.rand(4, 5)
    results = []
    for usable in (True, False):
        monkeypatch.setattr(apem_layers, "attention_usable", lambda *_, found=usable: found)
        y, _ = module(x, gate, None, None)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, module.key, module.inducing])])
    for compiled, folded in zip(*results, strict=True):
        torch.testing.assert_close(compiled, folded, rtol=1e-5, atol=1e-5)
