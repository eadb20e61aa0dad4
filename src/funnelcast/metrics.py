"""Metrics of probabilities, as pure functions on arrays.

Every function computes in float64, takes optional row weights (a weight of 2 equals the row given twice), and returns
`Undefined` with a reason where a metric has no value. Shape legend: N rows, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.auc import exact_auc
from funnelcast.curves import equal_mass_bins

__all__ = [
    "HIGHER_IS_BETTER",
    "IDEAL",
    "Undefined",
    "Value",
    "auc",
    "badness",
    "brier",
    "checked_rows",
    "ece",
    "error_to_truth",
    "logloss",
    "normalised_entropy",
    "one_class",
    "pcoc",
]

Array = NDArray[Any]

HIGHER_IS_BETTER: dict[str, bool] = {
    "auc": True,
    "gauc": True,
    "logloss": False,
    "ne": False,
    "ece": False,
    "brier": False,
    "rising_share": False,
    "explained_variance": True,
    "rmse": False,
    "mean_absolute_error": False,
}
# Metrics that are best at a value instead of at an end.
IDEAL: dict[str, float] = {"pcoc": 1.0, "bias": 0.0}


@dataclass(frozen=True)
class Undefined:
    """The absence of a value; reports hold null and the reason, never 0.5 or 0.

    Args:
        reason: why there is no value, such as `only one class: 0 positives of 12 rows`.
    """

    reason: str


Value = float | Undefined


def badness(metric: str, value: float) -> float:
    """Map a metric to a number that is lower for a better value, whatever the metric's direction.

    Args:
        metric: a key of `HIGHER_IS_BETTER` or `IDEAL`.
        value: the metric's value.

    Raises:
        KeyError: the direction of the metric is not known.

    Example:
        >>> badness("auc", 0.8) < badness("auc", 0.7), badness("pcoc", 0.5) == badness("pcoc", 1.5)
        (True, True)
    """
    if metric in IDEAL:
        return abs(value - IDEAL[metric])
    return -value if HIGHER_IS_BETTER[metric] else value


def checked_rows(labels: Array, weights: Array | None, *columns: Array) -> tuple[Array, Array | None, list[Array]]:
    """Check that all columns have the same rows; drop rows of weight 0, and weights that are all the same.

    Args:
        labels: [N] bool or {0, 1}.
        weights: [N] >= 0, or None for one each.
        *columns: [N] each, without NaN.

    Returns:
        Labels as bool, float64 weights or None where they do not matter, and the columns.

    Raises:
        ValueError: shapes differ, a score is NaN, or a weight is negative or infinite.
    """
    labels = np.asarray(labels).astype(bool)
    arrays = [np.asarray(column) for column in columns]
    for array in [*arrays, *([] if weights is None else [np.asarray(weights)])]:
        if array.shape != labels.shape or labels.ndim != 1:
            raise ValueError(f"all columns should have the shape [N], received {labels.shape} and {array.shape}")
    for array in arrays:
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError("scores should be numbers, received NaN")
    if weights is None or not len(labels):
        return labels, None, arrays
    weight = np.asarray(weights, dtype=np.float64)
    low, high = float(weight.min()), float(weight.max())
    if not (low >= 0 and np.isfinite(high)):
        raise ValueError(f"weights should be finite and >= 0, received {low}..{high}")
    if low == high and low > 0:
        return labels, None, arrays
    kept = weight > 0
    return labels[kept], weight[kept], [array[kept] for array in arrays]


def one_class(labels: Array) -> str | None:
    """Say why a metric that compares the two classes has no value, or None if it has one.

    Args:
        labels: [N] bool.

    Example:
        >>> one_class(np.array([False, False]))
        'only one class: 0 positives of 2 rows'
    """
    rows, positives = len(labels), int(np.count_nonzero(labels))
    if rows == 0:
        return "no rows"
    return None if 0 < positives < rows else f"only one class: {positives} positives of {rows} rows"


def _mean(values: Array, weights: Array | None) -> float:
    """[N] -> weighted mean in float64."""
    if weights is None:
        return float(np.mean(values, dtype=np.float64))
    return float(np.dot(weights, values.astype(np.float64)) / weights.sum())


def auc(scores: Array, labels: Array, weights: Array | None = None) -> Value:
    """Compute the exact area under the ROC curve.

    AUC = P(s+ > s-) + P(s+ = s-) / 2 over pairs of a positive and a negative row. No bins: at small rates a binned
    curve is far off.

    Args:
        scores: [N] any numbers, log-probabilities among them; larger means more likely.
        labels: [N] bool or {0, 1}.
        weights: [N] >= 0, or None for one each.

    Returns:
        A value in [0, 1]; undefined when a class is missing.

    Example:
        >>> auc(np.log([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
        0.875
    """
    labels, weight, (scores,) = checked_rows(labels, weights, scores)
    if reason := one_class(labels):
        return Undefined(reason)
    return exact_auc(scores, labels, weight)


def logloss(log_p: Array, log_not_p: Array, labels: Array, weights: Array | None = None) -> Value:
    """Compute the mean negative log-likelihood, -mean[y log p + (1 - y) log(1 - p)], in nats.

    Args:
        log_p: [N] log p <= 0.
        log_not_p: [N] log(1 - p) <= 0, given apart so that it is exact near p = 1.
        labels: [N] bool or {0, 1}.
        weights: [N] >= 0, or None for one each.

    Returns:
        A value >= 0; undefined without rows, or when something of probability 0 happened.

    Example:
        >>> round(logloss(np.log([0.5, 0.5]), np.log([0.5, 0.5]), np.array([0, 1])), 4)
        0.6931
    """
    labels, weight, (log_p, log_not_p) = checked_rows(labels, weights, log_p, log_not_p)
    if not len(labels):
        return Undefined("no rows")
    value = -_mean(np.where(labels, log_p, log_not_p), weight)
    return value if np.isfinite(value) else Undefined("infinite: a row with probability 0 for what happened")


def normalised_entropy(log_p: Array, log_not_p: Array, labels: Array, weights: Array | None = None) -> Value:
    """Compute the log-loss relative to that of a constant prediction of the rows' own base rate.

    NE = logloss / -(r log r + (1 - r) log(1 - r)), r = mean y; below 1 is better than the constant.

    Args:
        log_p: [N] log p <= 0.
        log_not_p: [N] log(1 - p) <= 0.
        labels: [N] bool or {0, 1}.
        weights: [N] >= 0, or None for one each.

    Returns:
        A value >= 0; undefined when a class is missing.

    Source: He et al. 2014, "Practical lessons from predicting clicks on ads at Facebook", section 3.

    Example:
        >>> normalised_entropy(np.log([0.25, 0.25]), np.log([0.75, 0.75]), np.array([0, 1])) > 1
        True
    """
    labels, weight, (log_p, log_not_p) = checked_rows(labels, weights, log_p, log_not_p)
    if reason := one_class(labels):
        return Undefined(reason)
    loss = logloss(log_p, log_not_p, labels, weight)
    rate = _mean(labels, weight)
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return loss if isinstance(loss, Undefined) else float(loss / entropy)


def pcoc(probability: Array, labels: Array, weights: Array | None = None) -> Value:
    """Compute predicted conversions over observed conversions, sum p / sum y; 1 is unbiased.

    Args:
        probability: [N] in [0, 1].
        labels: [N] bool or {0, 1}.
        weights: [N] >= 0, or None for one each.

    Returns:
        A value >= 0; undefined without positives.

    Example:
        >>> pcoc(np.array([0.5, 0.25]), np.array([0, 1]))
        0.75
    """
    labels, weight, (probability,) = checked_rows(labels, weights, probability)
    if not labels.any():
        return Undefined(f"no positives in {len(labels)} rows" if len(labels) else "no rows")
    return _mean(probability, weight) / _mean(labels, weight)


def ece(probability: Array, labels: Array, weights: Array | None = None, bins: int = 20) -> Value:
    """Compute the expected calibration error over bins of equal mass.

    ECE = sum_b w_b |mean_b p - mean_b y|, w_b the bin's share of the weight. Ties are never split between bins, so
    the order of the rows does not matter; bins of equal width would hold all rows in one bin at small rates.

    Args:
        probability: [N] in [0, 1].
        labels: [N] bool or {0, 1}.
        weights: [N] >= 0, or None for one each.
        bins: the largest number of bins, >= 1.

    Returns:
        A value in [0, 1]; undefined without rows.

    Example:
        >>> ece(np.array([0.25, 0.25, 0.75, 0.75]), np.array([0, 0, 1, 1]), bins=2)
        0.25
    """
    labels, weight, (probability,) = checked_rows(labels, weights, probability)
    if not len(labels):
        return Undefined("no rows")
    gap = probability.astype(np.float64) - labels
    gap = gap if weight is None else gap * weight
    total = len(labels) if weight is None else weight.sum()
    return float(np.abs(np.bincount(equal_mass_bins(probability, weight, bins), gap)).sum() / total)


def brier(probability: Array, labels: Array, weights: Array | None = None) -> Value:
    """Compute the mean squared error of the probabilities, mean (p - y)^2.

    Args:
        probability: [N] in [0, 1].
        labels: [N] bool or {0, 1}.
        weights: [N] >= 0, or None for one each.

    Returns:
        A value in [0, 1]; undefined without rows.

    Example:
        >>> brier(np.array([0.5, 1.0]), np.array([0, 1]))
        0.125
    """
    labels, weight, (probability,) = checked_rows(labels, weights, probability)
    if not len(labels):
        return Undefined("no rows")
    return _mean((probability.astype(np.float64) - labels) ** 2, weight)


def error_to_truth(probability: Array, truth: Array, weights: Array | None = None) -> dict[str, Value]:
    """Compare predicted with true probabilities, which only simulated data have.

    explained_variance = 1 - sum (p - p*)^2 / sum (p* - mean p*)^2, rmse = sqrt(mean (p - p*)^2),
    mean_absolute_error = mean |p - p*|, bias = mean (p - p*).

    Args:
        probability: [N] p in [0, 1].
        truth: [N] p* in [0, 1].
        weights: [N] >= 0, or None for one each.

    Example:
        >>> error_to_truth(np.array([0.25, 0.75]), np.array([0.0, 1.0]))["explained_variance"]
        0.75
    """
    _, weight, (probability, truth) = checked_rows(np.ones(np.shape(truth), dtype=bool), weights, probability, truth)
    if not len(truth):
        return dict.fromkeys(("explained_variance", "rmse", "mean_absolute_error", "bias"), Undefined("no rows"))
    truth = truth.astype(np.float64)
    gap = probability.astype(np.float64) - truth
    variance, square = _mean((truth - _mean(truth, weight)) ** 2, weight), _mean(gap**2, weight)
    return {
        "explained_variance": 1 - square / variance
        if variance > 0
        else Undefined("the true value is the same on all rows"),
        "rmse": float(np.sqrt(square)),
        "mean_absolute_error": _mean(np.abs(gap), weight),
        "bias": _mean(gap, weight),
    }
