"""Fits a calibration to predictions and labels, which should be those of VALID. Shape legend: N rows, S steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.calibration import METHODS, Calibration, Method, StepMap, log_sigmoid
from funnelcast.errors import ConfigError, choices
from funnelcast.metrics import one_class
from funnelcast.scores import Scores

__all__ = ["fit_calibration", "fit_isotonic", "fit_linear"]

Array = NDArray[Any]
# Pulls slopes towards the identity as strongly as a thousandth of a row: nothing beside data, but finite where
# the scores separate the classes or all rows have the same score.
_PULL = 1e-3
_STEPS, _HALVINGS, _CLOSE = 200, 60, 1e-12


def fit_linear(columns: Array, chances: Array, happened: Array, start: Array, pulled: Array) -> Array:
    """Find the coefficients t under which as much happens as happened, along every column.

    t = argmax sum_n [happened_n x_n t - chances_n softplus(x_n t)] - 0.0005 sum_pulled (t - start)^2

    The sum is concave. Where it is largest, sum_n (happened_n - chances_n sigmoid(x_n t)) x_n = 0 for every column that
    is not pulled, and up to the pull for the others. With chances of 1 it is the log-likelihood of a logistic model.

    Args:
        columns: [N, K].
        chances: [N] >= 0, weight of a row times the probability that it came as far.
        happened: [N] >= 0, weight of a row times its label.
        start: [K] coefficients of the identity.
        pulled: [K] bool, which coefficients are pulled to `start`.

    Returns:
        [K] float64.

    Example:
        >>> ones = np.ones((4, 1))  # 1 of 4 rows: log(1 / 3)
        >>> fit_linear(ones, ones[:, 0], np.array([1.0, 0, 0, 0]), np.zeros(1), np.array([False])).round(4).tolist()
        [-1.0986]
    """

    def value(t: Array) -> float:
        eta = columns @ t
        pull = 0.5 * _PULL * float(np.square(t - start)[pulled].sum())
        return float(happened @ eta - chances @ np.logaddexp(0.0, eta)) - pull

    t, best = start.astype(np.float64), value(start)
    for _ in range(_STEPS):
        rate = np.exp(log_sigmoid(columns @ t))
        gradient = columns.T @ (happened - chances * rate) - _PULL * pulled * (t - start)
        curvature = (columns * (chances * rate * (1.0 - rate))[:, None]).T @ columns + np.diag(_PULL * pulled)
        move = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        for _ in range(_HALVINGS):  # a sum of many rows is known to some 1e-12 of itself
            if value(t + move) >= best - _CLOSE * abs(best):
                break
            move = move / 2
        t = t + move
        best = value(t)
        if np.abs(move).max() <= _CLOSE * (1.0 + np.abs(t).max()):
            break
    return t


def fit_isotonic(z: Array, happened: Array, weight: Array) -> StepMap:
    """Fit the best map that does not fall, by scikit-learn's pool-adjacent-violators algorithm.

    Rows whose scores it pools get one probability: ties, which cost AUC. Levels of 0 and 1 would say that something is
    impossible; they become 0.5 / (n + 1) and 1 - 0.5 / (n + 1), n the number of rows.

    Args:
        z: [N] log-odds.
        happened: [N] bool.
        weight: [N] > 0.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(z, happened, weight)
    smallest = 0.5 / (len(z) + 1)
    probability = np.clip(fitted.y_thresholds_.astype(np.float64), smallest, 1.0 - smallest)
    points = fitted.X_thresholds_.astype(np.float64)
    return StepMap(log_odds=tuple(points.tolist()), probability=tuple(probability.tolist()))


def fit_calibration(
    scores: Scores, method: Method = "joint", fitted_on: Mapping[str, Any] | None = None
) -> Calibration:
    """Fit a calibration of every step.

    `platt`: log-odds a z + b of every reach; `temperature`: z / T; `isotonic`: any map that does not fall; all by the
    likelihood (isotonic: squared error) of that reach over the rows with a known label. `joint`: log-odds a u + b + d l
    of every transition, u its own log-odds and l the calibrated ones of the former step's reach, such that over all
    rows, the calibrated former reach being each row's chance to be there,

        sum_n (T_i - p_i) x = 0 for x = 1, u, l,   p_i = p_{i-1} sigmoid(a u + b + d l)

    so that every reach, not only every transition, is right on average and along both scores.

    A step whose labels tell nothing keeps its scores, and one whose slope would not be above 0 is only shifted; the
    reason stands with its map.

    Args:
        scores: predictions and labels of VALID, of a chain of steps.
        method: a word of `METHODS`.
        fitted_on: kept with the calibration.

    Raises:
        ConfigError: the method is unknown, or the steps form a graph.
    """
    if method not in METHODS:
        raise ConfigError(f"method should be a known word, received {method!r}; {choices(METHODS, str(method))}")
    if scores.scope is not None:
        raise ConfigError("a calibration should get a chain of steps, received a graph, whose steps share no one order")
    reach, transition = scores.log_reach - scores.log_not_reach, scores.log_transition - scores.log_not_transition
    maps: list[StepMap] = []
    for step in range(len(scores.steps)):
        rows = scores.observed[:, step] & (scores.weight > 0)
        weight, label = scores.weight[rows].astype(np.float64), scores.labels[rows, step]
        z = (transition if method == "joint" else reach)[rows, step].astype(np.float64)
        if reason := one_class(label):
            maps.append(StepMap(reason=f"left as it is: {reason}"))
        elif method == "isotonic":
            maps.append(fit_isotonic(z, label, weight))
        elif method == "joint" and step > 0:
            so_far = Calibration("joint", scores.steps[:step], tuple(maps), {})
            found = so_far.apply(reach[rows, :step], transition[rows, :step])
            maps.append(_fit_transition(z, found.log_reach[:, -1], found.log_not_reach[:, -1], weight, label))
        else:
            maps.append(_fit_step(method, z, weight, label))
    return Calibration(method, scores.steps, tuple(maps), dict(fitted_on or {}))


def _fit_step(method: Method, z: Array, weight: Array, label: Array) -> StepMap:
    """Fit a reach that depends on its own log-odds alone."""
    ones = np.ones_like(z)
    if method == "temperature":
        (slope,) = fit_linear(z[:, None], weight, weight * label, np.ones(1), np.array([True]))
        if slope > 0:
            return StepMap(slope=float(slope))
        return StepMap(reason=f"left as it is: the best 1 / T is {slope:.3g}, not above 0")
    columns, start = np.stack([z, ones], axis=1), np.array([1.0, 0.0])
    slope, intercept = fit_linear(columns, weight, weight * label, start, np.array([True, False]))
    if slope > 0:
        return StepMap(float(slope), float(intercept))
    return _shift(z, weight, weight * label, slope)


def _fit_transition(z: Array, log_former: Array, log_not_former: Array, weight: Array, label: Array) -> StepMap:
    """Fit a transition so that its product with the former step's calibrated reach is right."""
    chances, happened = weight * np.exp(log_former, dtype=np.float64), weight * label
    if happened.sum() >= chances.sum() * (1 - 1e-9):
        return StepMap(reason="left as it is: as many rows take the step as are expected to reach the former one")
    former = (log_former - log_not_former).astype(np.float64)
    columns, start = np.stack([z, np.ones_like(z), former], axis=1), np.array([1.0, 0.0, 0.0])
    slope, intercept, lean = fit_linear(columns, chances, happened, start, np.array([True, False, True]))
    if slope > 0:
        return StepMap(float(slope), float(intercept), float(lean))
    return _shift(z, chances, happened, slope)


def _shift(z: Array, chances: Array, happened: Array, slope: float) -> StepMap:
    """Only make the sum right, sum chances sigmoid(z + b) = sum happened, where the scores order the rows wrongly."""
    from scipy.optimize import brentq

    bound = float(np.abs(z).max()) + 60.0
    shift = brentq(lambda b: float(chances @ np.exp(log_sigmoid(z + b)) - happened.sum()), -bound, bound)
    return StepMap(intercept=float(shift), reason=f"only shifted: the best slope is {slope:.3g}, not above 0")
