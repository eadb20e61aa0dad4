"""DCMT's loss with numbers worked out by hand, its gradients, and what it estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.losses.companions import logits, predict, rows
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError
from funnelcast.losses.counterfactual import Counterfactual
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

MakeSchema = Callable[[int], Schema]


FIRST, SECOND, TWIN = [0.5, 0.2, 0.1, 0.6], [0.7, 0.4, 0.9, 0.2], [0.3, 0.3, 0.2, 0.9]
LABELS = [[1, 1], [1, 0], [0, 0], [0, 0]]
ERRORS = [-math.log(0.7), -math.log(0.6), -math.log(0.2), -math.log(0.9)]
TIES = [0.0, 0.3, 0.1, 0.1]  # |1 - c - c*|


def small() -> tuple[Prediction, Batch]:
    return predict(logits(FIRST, SECOND), logits([0.5] * 4, TWIN)), rows(LABELS)


def test_t23_self_normalised_by_hand(make_schema: MakeSchema) -> None:
    """Inside the weights 1/0.5 and 1/0.2, outside 1/0.9 and 1/0.4; each side divided by the sum of its own."""
    prediction, batch = small()
    loss = Counterfactual(make_schema(2), lam=0.25)(prediction, batch)
    inside = (2 * ERRORS[0] + 5 * ERRORS[1]) / 7
    a, b = 1 / 0.9, 1 / 0.4
    outside = (a * ERRORS[2] + b * ERRORS[3]) / (a + b)
    expected = inside + outside + 0.25 * sum(TIES) / 4
    assert loss.total(batch.weight).item() == pytest.approx(expected, rel=1e-5)
    plain = (ERRORS[0] + ERRORS[1]) / 2 + (ERRORS[2] + ERRORS[3]) / 2 + 0.25 * sum(TIES) / 4
    assert abs(expected - plain) > 0.05


def test_divided_by_rows_by_hand(make_schema: MakeSchema) -> None:
    prediction, batch = small()
    loss = Counterfactual(make_schema(2), lam=0.0, normalise="rows")(prediction, batch)
    expected = [2 * ERRORS[0], 5 * ERRORS[1], ERRORS[2] / 0.9, ERRORS[3] / 0.4]
    torch.testing.assert_close(loss.value[:, 1], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert loss.total(batch.weight).item() == pytest.approx(sum(expected) / 4, rel=1e-5)


@pytest.mark.parametrize("normalise", ["self", "rows"])
def test_unknown_transitions_are_on_neither_side(make_schema: MakeSchema, normalise: Any) -> None:
    prediction, batch = small()
    hidden = replace(batch, observed=torch.tensor([[True, True]] * 3 + [[True, False]]))
    loss, three = Counterfactual(make_schema(2), normalise=normalise), torch.arange(3)
    found = loss(prediction, hidden).total(batch.weight)
    fewer = predict(logits(FIRST[:3], SECOND[:3]), logits([0.5] * 3, TWIN[:3]))
    torch.testing.assert_close(found, loss(fewer, batch.take(three)).total(batch.weight[:3]))


def test_the_clip_holds_on_both_sides(make_schema: MakeSchema) -> None:
    batch = rows([[1, 1], [0, 0]])
    prediction = predict(logits([0.001, 0.999], [0.5, 0.5]), torch.zeros(2, 2))
    value = Counterfactual(make_schema(2), lam=0.0, normalise="rows", clip=0.1)(prediction, batch).value[:, 1]
    assert value.tolist() == pytest.approx([10 * math.log(2)] * 2, rel=1e-4)


@pytest.mark.parametrize("normalise", ["self", "rows"])
def test_t21_no_gradient_reaches_the_propensity(make_schema: MakeSchema, normalise: Any) -> None:
    x, u = logits(FIRST, SECOND).requires_grad_(), logits([0.5] * 4, TWIN).requires_grad_()
    batch = rows(LABELS)
    Counterfactual(make_schema(2), normalise=normalise)(predict(x, u), batch).total(batch.weight).backward()
    assert x.grad is not None and u.grad is not None
    assert x.grad[:, 0].tolist() == [0.0] * 4
    assert bool((x.grad[:2, 1] != 0).all()) and bool((u.grad[2:, 1] != 0).all())


def test_the_tie_carries_rows_outside_to_the_transition(make_schema: MakeSchema) -> None:
    def gradient(lam: float) -> Tensor:
        x, batch = logits(FIRST, SECOND).requires_grad_(), rows(LABELS)
        loss = Counterfactual(make_schema(2), lam=lam)(predict(x, logits([0.5] * 4, TWIN)), batch)
        loss.total(batch.weight).backward()
        assert x.grad is not None
        return x.grad[2:, 1]

    assert gradient(0.0).tolist() == [0.0, 0.0]
    # d |1 - c - c*| / d logit = -sign(1 - c - c*) c (1 - c); 1 - 0.9 - 0.2 < 0, 1 - 0.2 - 0.9 < 0
    assert gradient(0.5).tolist() == pytest.approx([0.5 / 4 * 0.9 * 0.1, 0.5 / 4 * 0.2 * 0.8], rel=1e-4)


def test_with_true_propensities_both_sides_estimate_the_entire_space(make_schema: MakeSchema) -> None:
    """A hidden cause u drives both steps; 1 / p(click | u) makes local rows stand for all, a plain mean does not."""
    draw = np.random.default_rng(3)
    n = 200_000
    u = draw.standard_normal(n)
    click, buy = 1 / (1 + np.exp(-(u - 1))), 1 / (1 + np.exp(-(1.5 * u - 0.5)))
    o1, potential = draw.random(n) < click, draw.random(n) < buy
    labels = torch.tensor(np.stack([o1, o1 & potential], axis=1).astype(np.float32))
    batch = Batch.of(torch.zeros(n, 1, dtype=torch.int32), labels)
    c, twin = 0.35, 0.6
    x = torch.stack([torch.tensor(np.log(click / (1 - click))).float(), torch.full((n,), math.log(c / (1 - c)))], dim=1)
    prediction = predict(x, torch.full((n, 2), math.log(twin / (1 - twin))))
    loss = Counterfactual(make_schema(2), lam=0.0, clip=0.0, normalise="rows")(prediction, batch)
    value = loss.value[:, 1].double().numpy()
    ideal = float(np.mean(-buy * math.log(c) - (1 - buy) * math.log(1 - c))) - math.log(twin)
    error = value.std() / math.sqrt(n)
    assert abs(value.mean() - ideal) < 4 * error
    naive = -np.where(potential, math.log(c), math.log(1 - c))[o1].mean() - math.log(twin)
    assert abs(naive - ideal) > 8 * error


def test_a_model_without_the_twin_is_refused(make_schema: MakeSchema) -> None:
    with pytest.raises(ConfigError, match=r"'counterfactual' should be given a model with a companion head.*'dcmt'"):
        Counterfactual(make_schema(2))(Prediction.from_transitions(torch.zeros(1, 2)), rows([[0, 0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "option 'lam' should be a number >= 0, received -1.0"),
        ({"clip": 2.0}, r"option 'clip' should hold probabilities in \[0, 1\], received 2.0"),
        ({"normalise": "batch"}, "option 'normalise' should be a known word, received 'batch'"),
    ],
)
def test_wrong_options_are_refused(make_schema: MakeSchema, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Counterfactual(make_schema(2), **options)
