"""DR-JL and MRDR with numbers worked out by hand, who learns from which part, and what they estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.losses.companions import logits, predict, rows
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError
from funnelcast.losses.joint_learning import JointLearning
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

MakeSchema = Callable[[int], Schema]


def cross(y: float, c: float) -> float:
    return -y * math.log(c) - (1 - y) * math.log(1 - c)


FIRST, SECOND, IMPUTED = [0.5, 0.2, 0.4], [0.7, 0.4, 0.9], [0.6, 0.5, 0.3]
LABELS = [[1, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize(("imputation", "v"), [("dr_jl", (2.0, 5.0)), ("mrdr", (0.5 / 0.25, 0.8 / 0.04))])
def test_by_hand(make_schema: MakeSchema, imputation: Any, v: tuple[float, float]) -> None:
    batch = rows(LABELS)
    prediction = predict(logits(FIRST, SECOND), logits([0.9] * 3, IMPUTED))
    loss = JointLearning(make_schema(2), imputation=imputation, imputation_weight=0.5)(prediction, batch)
    d = [cross(r, c) for r, c in zip(IMPUTED, SECOND, strict=True)]
    gaps = [cross(1, 0.7) - d[0], cross(0, 0.4) - d[1]]
    expected = [
        d[0] + 2 * gaps[0] + 0.5 * v[0] * gaps[0] ** 2,
        d[1] + 5 * gaps[1] + 0.5 * v[1] * gaps[1] ** 2,
        d[2],
    ]
    torch.testing.assert_close(loss.value[:, 1], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert loss.total(batch.weight).item() == pytest.approx(sum(expected) / 3, rel=1e-4)
    assert loss.step_weights.tolist() == [0.0, 1.0]


def gradients(schema: Schema, **options: Any) -> tuple[Tensor, Tensor]:
    x, u = logits(FIRST, SECOND).requires_grad_(), logits([0.9] * 3, IMPUTED).requires_grad_()
    batch = rows(LABELS)
    JointLearning(schema, **options)(predict(x, u), batch).total(batch.weight).backward()
    assert x.grad is not None and u.grad is not None
    return x.grad, u.grad


@pytest.mark.parametrize("imputation", ["dr_jl", "mrdr"])
def test_each_part_trains_its_own_head_and_neither_the_propensity(make_schema: MakeSchema, imputation: Any) -> None:
    """T21: the gradient into the propensity is exactly 0."""
    x, u = gradients(make_schema(2), imputation=imputation)
    alone, none = gradients(make_schema(2), imputation=imputation, imputation_weight=0.0)
    assert x[:, 0].tolist() == [0.0] * 3
    assert torch.equal(x, alone)  # the imputation's error does not move the transition
    assert not none.any()  # the completed loss does not move the imputed label
    assert bool((u[:2, 1] != 0).all()) and u[2, 1].item() == 0.0 and not u[:, 0].any()


def test_gradients_by_hand(make_schema: MakeSchema) -> None:
    """d e(y, c) / d logit = c - y; d e(r, c) / d r = -logit(c)."""
    x, u = gradients(make_schema(2))
    own = [c - r for c, r in zip(SECOND, IMPUTED, strict=True)]
    true = [0.7 - 1, 0.4 - 0]
    expected = [own[0] + 2 * (true[0] - own[0]), own[1] + 5 * (true[1] - own[1]), own[2]]
    assert x[:, 1].tolist() == pytest.approx([value / 3 for value in expected], rel=1e-4)
    gap = cross(1, 0.7) - cross(0.6, 0.7)
    slope = -math.log(0.7 / 0.3) * 0.6 * 0.4  # d e(r, c) / d companion
    assert u[0, 1].item() == pytest.approx(2 * 2 * gap * -slope / 3, rel=1e-4)


@pytest.mark.parametrize("imputation", ["dr_jl", "mrdr"])
def test_the_completed_loss_is_right_if_either_part_is(make_schema: MakeSchema, imputation: Any) -> None:
    draw = np.random.default_rng(5)
    n = 200_000
    u = draw.standard_normal(n)
    click, buy = 1 / (1 + np.exp(-(u - 1))), 1 / (1 + np.exp(-(1.5 * u - 0.5)))
    o1, potential = draw.random(n) < click, draw.random(n) < buy
    labels = torch.tensor(np.stack([o1, o1 & potential], axis=1).astype(np.float32))
    batch = Batch.of(torch.zeros(n, 1, dtype=torch.int32), labels)
    c = 0.35
    ideal = float(np.mean(-buy * math.log(c) - (1 - buy) * math.log(1 - c)))
    loss = JointLearning(make_schema(2), imputation=imputation, imputation_weight=0.0, clip=0.0)

    def distance(propensity: np.ndarray, label: np.ndarray) -> float:
        """In standard errors of the mean."""
        x = np.stack([np.log(propensity / (1 - propensity)), np.full(n, math.log(c / (1 - c)))], axis=1)
        companion = np.stack([np.zeros(n), np.log(label / (1 - label))], axis=1)
        prediction = predict(torch.tensor(x).float(), torch.tensor(companion).float())
        value = loss(prediction, batch).value[:, 1].double().numpy()
        return float(abs(value.mean() - ideal) / (value.std() / math.sqrt(n)))

    wrong_click, wrong_buy = np.full(n, 0.3), np.full(n, 0.6)
    assert distance(click, wrong_buy) < 4
    assert distance(wrong_click, buy) < 4
    assert distance(wrong_click, wrong_buy) > 8


def test_values_may_be_negative(make_schema: MakeSchema) -> None:
    prediction = predict(logits([0.1], [0.9]), logits([0.5], [0.1]))
    value = JointLearning(make_schema(2), imputation_weight=0.0)(prediction, rows([[1, 1]])).value
    assert value[0, 1].item() < -1 and "signed" in JointLearning.traits


def test_a_sure_imputed_label_stays_finite(make_schema: MakeSchema) -> None:
    x = torch.tensor([[0.0, 1e4], [0.0, -1e4]]).requires_grad_()
    u = torch.tensor([[0.0, 1e4], [0.0, -1e4]]).requires_grad_()
    batch = rows([[1, 0], [0, 0]])
    total = JointLearning(make_schema(2))(predict(x, u), batch).total(batch.weight)
    total.backward()
    assert x.grad is not None and u.grad is not None
    assert bool(total.isfinite()) and bool(x.grad.isfinite().all()) and bool(u.grad.isfinite().all())


def test_a_model_without_imputed_labels_is_refused(make_schema: MakeSchema) -> None:
    with pytest.raises(ConfigError, match=r"'joint_learning' should be given a model with a companion head.*'dr_jl'"):
        JointLearning(make_schema(2))(Prediction.from_transitions(torch.zeros(1, 2)), rows([[0, 0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imputation": "mr_dr"}, "option 'imputation' should be a known word, received 'mr_dr'"),
        ({"imputation_weight": -1.0}, "option 'imputation_weight' should be a number >= 0, received -1.0"),
        ({"clip": -0.1}, "option 'clip' should hold numbers >= 0"),
    ],
)
def test_wrong_options_are_refused(make_schema: MakeSchema, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JointLearning(make_schema(2), **options)
