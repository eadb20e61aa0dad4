"""ReachBce with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError
from funnelcast.losses.reach_bce import ReachBce
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

MakeSchema = Callable[[int], Schema]
# p = (1/2, 1/4, 1/10) on every row
PREDICTION = Prediction.from_reach(torch.tensor([[0.0, -math.log(3), -math.log(9)]]).expand(4, 3))


def test_by_hand(make_schema: MakeSchema, batch: Batch) -> None:
    loss = ReachBce(make_schema(3))(PREDICTION, batch)
    assert torch.equal(loss.mask, batch.observed)
    assert torch.equal(loss.denominator, batch.observed)
    # step 1: ln 2 on every row; step 2: ln 4 and ln 4/3 with weights 1 and 2 + 1; step 3: ln 10 and ln 10/9, 1 and 6
    expected = math.log(2) + (math.log(4) + 3 * math.log(4 / 3)) / 4 + (math.log(10) + 6 * math.log(10 / 9)) / 7
    assert loss.total(batch.weight).item() == pytest.approx(expected, rel=1e-6)


def test_step_weights(make_schema: MakeSchema, batch: Batch) -> None:
    loss = ReachBce(make_schema(3), step_weights=(3.0, 0.0, 0.0))(PREDICTION, batch)
    assert loss.total(batch.weight).item() == pytest.approx(3 * math.log(2), rel=1e-6)
    with pytest.raises(ConfigError, match="option 'step_weights' should be one number or a list of 3, received 2"):
        ReachBce(make_schema(3), step_weights=(1.0, 1.0))


def test_t26_saturated_product_still_learns(make_schema: MakeSchema) -> None:
    logits = torch.tensor([[17.0, 18.0]], requires_grad=True)
    batch = Batch.of(torch.zeros(1, 1, dtype=torch.int32), torch.tensor([[1, 0]]))
    loss = ReachBce(make_schema(2), step_weights=(0.0, 1.0))(Prediction.from_transitions(logits), batch)
    total = loss.total(batch.weight)
    total.backward()
    assert logits.grad is not None
    assert total.item() == pytest.approx(16.687, abs=1e-3)
    assert logits.grad[0].tolist() == pytest.approx([0.731, 0.269], abs=1e-3)


@pytest.mark.parametrize("logit", [17.0, 40.0, 1000.0])
def test_t24_confident_and_wrong_is_costly_but_finite(make_schema: MakeSchema, logit: float) -> None:
    batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[0], [1]]))
    logits = torch.tensor([[logit], [-logit]], requires_grad=True)
    total = ReachBce(make_schema(1))(Prediction.from_reach(logits), batch).total(batch.weight)
    total.backward()
    assert logits.grad is not None
    assert total.item() == pytest.approx(logit, rel=1e-6)
    assert logits.grad.flatten().tolist() == pytest.approx([0.5, -0.5])
