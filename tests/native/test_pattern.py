"""What the compiled Pattern Selectors read, against a softmax in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelcast.native import read_patterns

from .layers import gradients


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.integers(0, 2**16))
def test_any_size(rows: int, tokens: int, width: int, queries: int, seed: int) -> None:
    torch.manual_seed(seed)
    single = [torch.randn(rows, tokens, width).requires_grad_(), torch.randn(width, queries).requires_grad_()]
    double = [value.detach().double().requires_grad_() for value in single]
    ours = read_patterns(*single)
    expected = (double[0] @ double[1]).softmax(dim=1).transpose(1, 2) @ double[0]
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=2e-5)
    seen = torch.randn_like(ours)
    for mine, theirs in zip(gradients(ours, single, seen), gradients(expected, double, seen), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


def test_by_hand() -> None:
    """Scores 0 and ln 3: attention 1/4 and 3/4."""
    y = torch.tensor([[[0.0, 2.0], [1.0, 6.0]]])
    a = torch.tensor([[3.0], [1.0]]).log()
    torch.testing.assert_close(read_patterns(y, a), torch.tensor([[[0.75, 5.0]]]))


def test_torch_finds_nothing_wrong_with_the_operator() -> None:
    inputs = (torch.randn(2, 5, 3).requires_grad_(), torch.randn(3, 2).requires_grad_())
    torch.library.opcheck(torch.ops.funnelcast.read_patterns.default, inputs)
