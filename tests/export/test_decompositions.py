"""Functions in log space by operators of ONNX: every one against float64, where the usual translations fail too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from funnelcast.export import decompositions as ours

Function = Callable[[Tensor], Tensor]
TINY = torch.logspace(-30, 0, 61)
WIDE = torch.cat([torch.linspace(-300, 300, 601), TINY, -TINY])


@pytest.mark.parametrize(
    ("mine", "reference", "x"),
    [
        (ours.log1p, torch.log1p, TINY),
        (ours.expm1, torch.expm1, -torch.logspace(-30, 2, 65)),
        (ours.expm1, torch.expm1, TINY),
        (ours.log_sigmoid, torch.nn.functional.logsigmoid, WIDE),
        (ours.softplus, torch.nn.functional.softplus, WIDE),
    ],
    ids=["log1p", "expm1 below 0", "expm1 above 0", "log_sigmoid", "softplus"],
)
def test_no_digit_is_lost(mine: Function, reference: Function, x: Tensor) -> None:
    torch.testing.assert_close(mine(x).double(), reference(x.double()), rtol=5e-7, atol=1e-38)


def test_softplus_knows_beta() -> None:
    x = torch.linspace(-9, 9, 19)
    torch.testing.assert_close(ours.softplus(x, 3.0), torch.nn.functional.softplus(x, beta=3.0), rtol=1e-6, atol=1e-7)


def test_the_sum_of_two_tiny_numbers_is_not_nothing() -> None:
    """log(e^-200 + e^-200) = log 2 - 200, while e^-200 is 0 in float32."""
    found = ours.logaddexp(torch.tensor([-200.0, 0.0, 3.0]), torch.tensor([-200.0, -1000.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([-199.30685, 0.0, 3.6931472]))


@pytest.mark.parametrize("x", [1e-12, 0.5, 1.0])
def test_double_precision_keeps_what_single_needs(x: float) -> None:
    value = torch.tensor(x, dtype=torch.float64)
    torch.testing.assert_close(ours.log1p(value), torch.log1p(value), rtol=1e-3 if x < 1e-6 else 1e-12, atol=1e-15)
