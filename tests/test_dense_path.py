"""Cross layers, dropout and the dense path, against numpy and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from funnelcast.dense_path import Cross, DensePath, dropped_mlp
from funnelcast.errors import ConfigError

SIZES: dict[str, Any] = {"crosses": 2, "rank": 2, "hidden": (5, 3), "dropout": 0.5, "starts": [-1.0, 0.5]}


@pytest.fixture(autouse=True)
def seed() -> None:
    """First weights do not depend on which tests ran before."""
    torch.manual_seed(0)


def test_cross_by_hand() -> None:
    """x_0 = (1, 2), x = (3, -1), W x + b = (5, 1) + (1, -2) = (6, -1): x_0 * (6, -1) + x = (9, -3)."""
    cross = Cross(2, 0)
    with torch.no_grad():
        cross.outer.weight.copy_(torch.tensor([[2.0, 1.0], [0.0, -1.0]]))
        cross.outer.bias.copy_(torch.tensor([1.0, -2.0]))
    np.testing.assert_allclose(
        cross(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])).detach(), [[9.0, -3.0]], rtol=1e-6
    )


def test_a_path_is_crosses_then_an_mlp_beside_a_linear_part() -> None:
    path = DensePath(4, **SIZES).double().eval()
    with torch.no_grad():
        for parameter in path.parameters():
            parameter.add_(torch.empty_like(parameter).uniform_(-0.7, 0.7))
    first = torch.randn(6, 4, dtype=torch.float64)
    w = {name: value.numpy() for name, value in path.state_dict().items()}
    x0 = x = first.numpy()
    for c in range(2):
        x = (
            x0
            * (x @ w[f"crosses.{c}.inner.weight"].T @ w[f"crosses.{c}.outer.weight"].T + w[f"crosses.{c}.outer.bias"])
            + x
        )
    for layer in (0, 2):  # a dropout stands between
        x = np.maximum(x @ w[f"body.{layer}.0.weight"].T + w[f"body.{layer}.0.bias"], 0)
    expected = x @ w["output.weight"].T + w["output.bias"] + x0 @ w["linear.weight"].T
    np.testing.assert_allclose(path(first).detach().numpy(), expected, rtol=1e-12)


def test_biases_start_where_told_and_the_linear_part_at_nothing() -> None:
    path = DensePath(4, **SIZES)
    torch.testing.assert_close(path(torch.zeros(1, 4)), torch.tensor([[-1.0, 0.5]]))
    assert not path.linear.weight.any()


def test_dropout_acts_in_training_alone() -> None:
    body = dropped_mlp(3, (64, 64), [0.5, 0.0])
    x = torch.ones(1, 3)
    first = body[:2]
    assert isinstance(first, nn.Sequential)
    kept = first.eval()(x)
    dropped = first.train()(x)
    share = ((dropped == 0) & (kept > 0)).sum() / (kept > 0).sum()
    assert 0.2 < float(share) < 0.8
    torch.testing.assert_close(dropped[dropped > 0], 2 * kept[dropped > 0])
    torch.testing.assert_close(body.eval()(x), body.eval()(x))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dropout": 1.0}, r"option 'dropout' should be a number in \[0, 1\), received 1.0"),
        ({"dropout": float("nan")}, "received nan"),
        ({"crosses": -1}, "option 'cross_layers' should be a whole number >= 0, received -1"),
        ({"rank": 1.5}, "option 'cross_rank' should be a whole number >= 0, received 1.5"),
        ({"hidden": (0,)}, "option 'hidden' should be a list of whole numbers >= 1"),
    ],
)
def test_wrong_options_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DensePath(4, **{**SIZES, **changed})
