"""Dependence with numbers worked out by hand, its sign, its minimum, its weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError
from funnelcast.losses.dependence import Dependence
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

MakeSchema = Callable[[int], Schema]


def predict(*reach: float, rows: int = 1) -> Prediction:
    p = torch.tensor([reach], dtype=torch.float32).expand(rows, len(reach))
    return Prediction.from_reach(torch.log(p) - torch.log1p(-p))


def one_row(*labels: int) -> Batch:
    return Batch.of(torch.zeros(1, 1, dtype=torch.int32), torch.tensor([labels]))


def test_by_hand(make_schema: MakeSchema, batch: Batch) -> None:
    loss = Dependence(make_schema(3))(predict(0.5, 0.25, 0.1, rows=4), batch)
    # drops: 0.25 and 0.15; labels of the drop: rows (0, 0), (1, 0), (0, 0), (-, -)
    value = [[0.0, 0.0625, 0.0225], [0.0, 0.5625, 0.0225], [0.0, 0.0625, 0.0225]]
    torch.testing.assert_close(loss.value[:3], torch.tensor(value))
    assert loss.mask.tolist() == [[False, True, True]] * 3 + [[False, False, False]]
    assert torch.equal(loss.mask, loss.denominator)
    expected = (0.0625 + 2 * 0.5625 + 0.0625) / 4 + 0.0225
    assert loss.total(batch.weight).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "drop"),
    [((0, 0), 0.0), ((1, 0), 1.0), ((1, 1), 0.0)],  # o_{i-1}, o_i -> label of P(T_{i-1} = 1, T_i = 0)
)
def test_table_1_with_the_sign_of_equation_21(make_schema: MakeSchema, labels: tuple[int, int], drop: float) -> None:
    loss = Dependence(make_schema(2))(predict(0.7, 0.3), one_row(*labels))
    assert loss.value[0, 1].item() == pytest.approx((drop - 0.4) ** 2, rel=1e-5)


def test_rising_heads_are_dearer_than_falling_ones(make_schema: MakeSchema) -> None:
    loss = Dependence(make_schema(2))
    falling, rising = loss(predict(0.7, 0.3), one_row(1, 0)), loss(predict(0.3, 0.7), one_row(1, 0))
    assert falling.value[0, 1].item() == pytest.approx(0.36, rel=1e-5)
    assert rising.value[0, 1].item() == pytest.approx(1.96, rel=1e-5)


def test_sigma_is_one_number_or_one_a_pair(make_schema: MakeSchema) -> None:
    prediction, row = predict(0.9, 0.5, 0.3), one_row(1, 0, 0)
    pairs = [(1 - 0.4) ** 2, 0.2**2]
    for sigma, weights in ((None, (1, 1)), (0.1, (0.1, 0.1)), ((2.0, 5.0), (2, 5)), (0.0, (0, 0))):
        total = Dependence(make_schema(3), sigma=sigma)(prediction, row).total(row.weight).item()
        assert total == pytest.approx(weights[0] * pairs[0] + weights[1] * pairs[1], rel=1e-5)
    with pytest.raises(ConfigError, match="option 'sigma' should be one number or a list of 2, received 3 numbers"):
        Dependence(make_schema(3), sigma=(1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="option 'sigma' should hold numbers >= 0"):
        Dependence(make_schema(3), sigma=-1.0)


def test_funnel_of_one_step_has_nothing_to_tie(make_schema: MakeSchema) -> None:
    logits = torch.zeros(1, 1, requires_grad=True)
    loss = Dependence(make_schema(1))(Prediction.from_reach(logits), one_row(1))
    total = loss.total(torch.ones(1))
    total.backward()
    assert total.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.item() == 0.0


def test_gradient_runs_through_both_heads(make_schema: MakeSchema) -> None:
    logits = torch.tensor([[math.log(4), -math.log(4)]], requires_grad=True)  # p = (0.8, 0.2)
    Dependence(make_schema(2))(Prediction.from_reach(logits), one_row(1, 0)).total(torch.ones(1)).backward()
    assert logits.grad is not None
    # error 1 - 0.6 = 0.4; d/dlogit = -2 * 0.4 * (+-p(1-p))
    assert logits.grad[0].tolist() == pytest.approx([-0.8 * 0.16, 0.8 * 0.16], rel=1e-5)


def test_minimum_is_the_probability_of_stopping_between_the_steps(make_schema: MakeSchema) -> None:
    # A saturated table: one logit a step, three kinds of rows in the shares 0.5, 0.3, 0.2 -> p = (0.5, 0.2), drop 0.3.
    labels = torch.tensor([[0, 0], [1, 0], [1, 1]])
    shares = torch.tensor([0.5, 0.3, 0.2])
    rows = Batch(torch.zeros(3, 1, dtype=torch.int32), labels.float(), torch.ones(3, 2, dtype=torch.bool), shares)
    logits = torch.tensor([[1.0, 0.5]], requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=2.0)
    loss = Dependence(make_schema(2))
    for _ in range(300):
        optimizer.zero_grad()
        loss(Prediction.from_reach(logits.expand(3, 2)), rows).total(rows.weight).backward()
        optimizer.step()
    reach = torch.sigmoid(logits[0]).tolist()
    assert reach[0] - reach[1] == pytest.approx(0.3, abs=1e-4)
    assert abs(reach[0] - 0.5) > 0.01  # the heads themselves are not determined: L_D alone fixes the drop
