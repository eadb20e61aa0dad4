"""Fits against scikit-learn, their score equations, and laws of a calibrated funnel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from funnelcast import metrics
from funnelcast.calibration import METHODS, Method
from funnelcast.calibration_fit import fit_calibration, fit_linear
from funnelcast.errors import ConfigError
from funnelcast.scores import Scores, funnel_metrics

Any2 = np.ndarray[Any, Any]


def log_sigmoid(z: Any2) -> Any2:
    return cast(Any2, -np.logaddexp(0.0, -z))


def funnel(rows: int, steps: int, seed: int = 0, *, skill: float = 0.6, lean: float = 0.0) -> Scores:
    """A funnel whose scores are too bold and shifted; `lean` makes a transition's error follow the former score."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=rows)
    logits = -0.7 + 0.6 * shared[:, None] + 0.8 * draw.normal(size=(rows, steps))  # of the scores' transitions
    truth = skill * logits + 0.3
    truth[:, 1:] += lean * logits[:, :-1]
    labels = np.cumprod(draw.random((rows, steps)) < 1 / (1 + np.exp(-truth)), axis=1).astype(bool)
    log_c, log_not_c = log_sigmoid(logits), log_sigmoid(-logits)
    log_p = np.cumsum(log_c, axis=1)
    reach = log_p.astype(np.float32), np.log(-np.expm1(log_p)).astype(np.float32)
    transition = log_c.astype(np.float32), log_not_c.astype(np.float32)
    weight = draw.choice([0.0, 0.5, 1.0, 3.0], rows, p=[0.1, 0.3, 0.4, 0.2]).astype(np.float32)
    names = tuple(f"step {i}" for i in range(steps))
    observed = draw.random((rows, steps)) < 0.95
    return Scores(names, reach[0], reach[1], transition[0], transition[1], labels, observed, weight)


def log_odds(scores: Scores) -> Any2:
    return cast(Any2, (scores.log_reach - scores.log_not_reach).astype(np.float64))


def rows_of(scores: Scores, step: int) -> Any2:
    return cast(Any2, scores.observed[:, step] & (scores.weight > 0))


def test_platt_is_the_logistic_model_of_scikit_learn() -> None:
    scores = funnel(3000, 2)
    found = fit_calibration(scores, "platt")
    for step, mapping in enumerate(found.maps):
        rows = rows_of(scores, step)
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(log_odds(scores)[rows, step : step + 1], scores.labels[rows, step], scores.weight[rows])
        assert mapping.slope == pytest.approx(model.coef_[0, 0], rel=1e-4)
        assert mapping.intercept == pytest.approx(model.intercept_[0], rel=1e-4, abs=1e-4)


def test_platt_on_smoothed_targets_is_the_sigmoid_calibration_of_scikit_learn() -> None:
    scores = funnel(2000, 1)
    z, label = log_odds(scores)[:, 0], scores.labels[:, 0]
    reference = _SigmoidCalibration().fit(z, label)
    positives = label.sum()
    target = np.where(label, (positives + 1) / (positives + 2), 1 / (len(label) - positives + 2))
    columns = np.stack([z, np.ones_like(z)], axis=1)
    found = fit_linear(columns, np.ones_like(z), target, np.array([1.0, 0.0]), np.array([True, False]))
    assert found == pytest.approx([-reference.a_, -reference.b_], rel=1e-3)


def test_isotonic_is_that_of_scikit_learn_away_from_0_and_1() -> None:
    scores = funnel(2000, 2)
    found = fit_calibration(scores, "isotonic")
    probability = np.exp(found.scores(scores).log_reach.astype(np.float64))
    for step in range(2):
        rows = rows_of(scores, step)
        z = log_odds(scores)[:, step]
        model = IsotonicRegression(out_of_bounds="clip").fit(z[rows], scores.labels[rows, step], scores.weight[rows])
        smallest = 0.5 / (rows.sum() + 1)
        np.testing.assert_allclose(
            probability[:, step], model.predict(z).clip(smallest, 1 - smallest), rtol=1e-5, atol=1e-7
        )


def test_temperature_by_hand() -> None:
    """Scores of log-odds 2 and -2 on rows that say yes three times of four: the best log-odds are log 3."""
    z = np.array([2.0, 2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0])
    label = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=bool)[:, None]
    yes, no = log_sigmoid(z)[:, None], log_sigmoid(-z)[:, None]
    scores = Scores(("click",), yes, no, yes, no, label, np.ones_like(label), np.ones(8, np.float32))
    (mapping,) = fit_calibration(scores, "temperature").maps
    assert 1 / mapping.slope == pytest.approx(2 / np.log(3), rel=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["platt", "joint"])
def test_on_valid_as_much_is_predicted_as_happened(steps: int, method: Method) -> None:
    scores = funnel(4000, steps, seed=steps)
    calibrated = fit_calibration(scores, method).scores(scores)
    for before, after in zip(funnel_metrics(scores), funnel_metrics(calibrated), strict=True):
        assert after["reach"]["pcoc"] == pytest.approx(1.0, abs=1e-5)
        assert abs(before["reach"]["pcoc"] - 1) > 0.02


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_joint_fit_solves_its_equations_for_every_step(steps: int) -> None:
    scores = funnel(6000, steps, seed=3, lean=0.4)
    after = fit_calibration(scores, "joint").scores(scores)
    for step in range(steps):
        rows = rows_of(scores, step)
        weight, label = scores.weight[rows].astype(np.float64), scores.labels[rows, step]
        gap = weight * (label - np.exp(after.log_reach[rows, step].astype(np.float64)))
        u = (scores.log_transition - scores.log_not_transition)[rows, step]
        columns = [np.ones(len(u)), u, *([log_odds(after)[rows, step - 1]] if step else [])]
        for column in columns:
            assert abs(gap @ column) < 1e-2 + 1e-5 * np.abs(gap) @ np.abs(column)


def test_products_of_transitions_calibrated_apart_are_not_calibrated_and_joint_is() -> None:
    """The click score errs with the score of the transition; each transition alone is as right as it can be."""
    draw = np.random.default_rng(0)
    rows = 200_000
    x = draw.normal(size=rows)
    click = draw.random(rows) < 1 / (1 + np.exp(-1.5 * x))
    buy = click & (draw.random(rows) < 1 / (1 + np.exp(1.0 - 1.5 * x)))
    logits = np.stack([0.0 * x + 0.1 * draw.normal(size=rows), x - 1.0], 1)  # the click score is nearly noise
    logs = (log_sigmoid(logits), log_sigmoid(-logits))
    log_p = np.cumsum(logs[0], axis=1)
    labels = np.stack([click, buy], 1)
    scores = Scores(("click", "buy"), log_p, np.log(-np.expm1(log_p)), *logs, labels, labels | True, np.ones(rows))
    apart = [
        fit_linear(
            np.stack([z[r], np.ones(r.sum())], 1),
            np.ones(r.sum()),
            y[r].astype(float),
            np.array([1.0, 0]),
            np.zeros(2, bool),
        )
        for z, y, r in ((logits[:, 0], click, click | True), (logits[:, 1], buy, click))
    ]
    c = [1 / (1 + np.exp(-(a * logits[:, i] + b))) for i, (a, b) in enumerate(apart)]
    separate = float((c[0] * c[1]).sum() / buy.sum())
    joint = fit_calibration(scores, "joint").scores(scores)
    assert separate < 0.85  # 0.80: who clicks is likelier to buy than the click score can tell
    assert np.exp(joint.log_reach[:, 1]).sum() / buy.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_auc_of_reach_stays(method: Method) -> None:
    scores = funnel(3000, 3)
    after = fit_calibration(scores, method).scores(scores)
    for step in range(3):
        assert metrics.auc(log_odds(after)[:, step], scores.labels[:, step]) == pytest.approx(
            metrics.auc(log_odds(scores)[:, step], scores.labels[:, step]), abs=1e-6
        )


def test_auc_of_the_first_step_stays_under_joint_and_isotonic_makes_ties() -> None:
    scores = funnel(3000, 2)
    joint, isotonic = (fit_calibration(scores, method).scores(scores) for method in ("joint", "isotonic"))
    before = metrics.auc(log_odds(scores)[:, 0], scores.labels[:, 0])
    assert metrics.auc(log_odds(joint)[:, 0], scores.labels[:, 0]) == pytest.approx(before, abs=1e-6)
    assert len(np.unique(isotonic.log_reach[:, 0])) < len(np.unique(scores.log_reach[:, 0])) / 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.floats(0.2, 1.5), st.floats(-0.5, 0.5))
def test_calibrated_jointly_the_funnel_falls_and_twice_is_once(
    seed: int, steps: int, skill: float, lean: float
) -> None:
    scores = funnel(1500, steps, seed, skill=skill, lean=lean)
    once = fit_calibration(scores, "joint").scores(scores)
    assert (np.diff(once.log_reach, axis=1) <= 0).all()
    again = fit_calibration(once, "joint")
    for mapping in again.maps:
        assert mapping.slope == pytest.approx(1.0, abs=0.02)
        assert (mapping.intercept, mapping.former) == pytest.approx((0.0, 0.0), abs=0.05)
    twice = again.scores(once)
    np.testing.assert_allclose(np.exp(twice.log_reach), np.exp(once.log_reach), atol=2e-3)


@pytest.mark.parametrize("method", ["platt", "temperature", "isotonic"])
def test_twice_is_once(method: Method) -> None:
    scores = funnel(3000, 2, seed=8)
    once = fit_calibration(scores, method).scores(scores)
    twice = fit_calibration(once, method).scores(once)
    for step in range(2):  # isotonic: between the rows that were fitted there is more than one way
        rows = rows_of(scores, step)
        np.testing.assert_allclose(np.exp(twice.log_reach[rows, step]), np.exp(once.log_reach[rows, step]), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["none observed", "no positives", "all positives", "no weight"])
def test_a_step_whose_labels_tell_nothing_stays_and_says_so(method: Method, case: str) -> None:
    scores = funnel(500, 2)
    labels, observed, weight = scores.labels.copy(), scores.observed.copy(), scores.weight
    if case == "none observed":
        observed[:, 1] = False
    elif case == "no weight":
        weight = np.zeros_like(weight)
    else:
        labels[:, 1] = case == "all positives"
    changed = replace(scores, labels=labels, observed=observed, weight=weight)
    mapping = fit_calibration(changed, method).maps[1]
    assert (mapping.slope, mapping.intercept, mapping.former) == (1.0, 0.0, 0.0)
    assert mapping.reason is not None and mapping.reason.startswith("left as it is: ")
    assert ("only one class" in mapping.reason) == ("positives" in case)


def test_a_step_that_everyone_takes_stays_under_joint() -> None:
    scores = funnel(800, 2)
    labels = np.repeat(scores.labels[:, :1], 2, axis=1)
    changed = replace(scores, labels=labels, observed=np.ones_like(labels))
    mapping = fit_calibration(changed, "joint").maps[1]
    assert mapping.reason is not None and "as many rows take the step" in mapping.reason


@pytest.mark.parametrize("method", ["platt", "joint"])
def test_scores_that_order_rows_wrongly_are_only_shifted(method: Method) -> None:
    scores = funnel(3000, 2, skill=-0.8)
    found = fit_calibration(scores, method)
    for mapping in found.maps:
        assert mapping.slope == 1.0 and mapping.reason is not None and mapping.reason.startswith("only shifted")
    after = funnel_metrics(found.scores(scores))
    assert [step["reach"]["pcoc"] for step in after] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert fit_calibration(scores, "temperature").maps[0].reason is not None


def test_scores_that_separate_the_classes_or_are_all_the_same_have_a_finite_fit() -> None:
    scores = funnel(400, 1)
    z = log_odds(scores)[:, 0]
    apart = replace(scores, labels=(z > 0)[:, None])
    assert np.isfinite(fit_calibration(apart, "platt").maps[0].slope)
    flat = replace(
        scores,
        log_reach=np.full_like(scores.log_reach, np.log(0.5)),
        log_not_reach=np.full_like(scores.log_reach, np.log(0.5)),
    )
    after = fit_calibration(flat, "platt").scores(flat)
    assert funnel_metrics(after)[0]["reach"]["pcoc"] == pytest.approx(1.0, abs=1e-6)


def test_a_graph_and_an_unknown_method_are_refused() -> None:
    scores = funnel(50, 2)
    with pytest.raises(ConfigError, match="should get a chain of steps, received a graph"):
        fit_calibration(replace(scores, scope=np.ones_like(scores.labels)))
    unknown: Any = "plat"
    with pytest.raises(ConfigError, match="received 'plat'; did you mean 'platt'"):
        fit_calibration(scores, unknown)
