"""Curves on arrays: ROC and precision-recall points, reliability bins, score histograms.

Shape legend: N rows, P points, Q bins.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["equal_mass_bins", "precision_recall_points", "reliability", "roc_points", "score_histogram", "wilson"]

Array = NDArray[Any]


def equal_mass_bins(values: Array, weights: Array | None = None, bins: int = 20) -> Array:
    """Number the bins of rows so that each bin holds about the same share of the rows.

    bin(v) = floor(Q m(v)), m(v) = share of the weight below v plus half the share at v. The bin depends on the value
    alone, so ties are never split and the order of the rows does not matter; a value shared by many rows makes a
    larger bin and fewer bins.

    Args:
        values: [N] numbers without NaN, N >= 1.
        weights: [N] > 0, or None for one each.
        bins: Q, the largest number of bins, >= 1.

    Returns:
        [N] int64 in 0..Q-1, without gaps.

    Example:
        >>> equal_mass_bins(np.array([0.4, 0.1, 0.1, 0.3]), bins=2).tolist()
        [1, 0, 0, 1]
    """
    if weights is None:
        ordered = np.sort(values)
        mass = np.arange(len(ordered) + 1, dtype=np.float64)  # [N+1] weight of the k lowest rows
    else:
        order = np.argsort(values, kind="stable")
        ordered, mass = values[order], np.append(0.0, np.cumsum(weights[order], dtype=np.float64))
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # first row of every tie
    after = np.append(first[1:], len(ordered))
    number = np.floor(bins * (mass[first] + mass[after]) / (2 * mass[-1]))
    edges = ordered[first[1:][number[1:] != number[:-1]]]  # lowest value of every bin but the first
    return np.searchsorted(edges, values, side="right")


def wilson(rate: float, rows: float, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's interval of a rate.

    (rate + z^2 / 2n +- z sqrt(rate (1 - rate) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        rate: observed share, in [0, 1].
        rows: n, the (effective) number of rows, > 0.
        confidence: coverage of the interval, in (0, 1).

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Example:
        >>> [round(bound, 4) for bound in wilson(0.0, 10)]
        [0.0, 0.2775]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = rate + z * z / (2 * rows)
    half = z * np.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    return float(max(0.0, (middle - half) / scale)), float(min(1.0, (middle + half) / scale))


def reliability(
    probability: Array, labels: Array, weights: Array | None = None, bins: int = 20
) -> list[dict[str, float | int]]:
    """Compare the mean prediction with the observed rate in bins of equal mass.

    Args:
        probability: [N] float64 in [0, 1].
        labels: [N] bool.
        weights: [N] > 0, or None for one each.
        bins: the largest number of bins, >= 1.

    Returns:
        One record a used bin, by rising prediction: `predicted`, `observed`, `rows`, and Wilson's 95 % interval
        `low`..`high` (with weights, at the effective number of rows (sum w)^2 / sum w^2).

    Example:
        >>> reliability(np.array([0.1, 0.1, 0.5]), np.array([False, True, True]), bins=2)[1]["observed"]
        1.0
    """
    bin_of = equal_mass_bins(probability, weights, bins)
    weight = np.ones(len(probability)) if weights is None else weights.astype(np.float64)
    rows = np.bincount(bin_of)
    mass = np.bincount(bin_of, weight)
    squares = np.bincount(bin_of, weight * weight)
    predicted = np.bincount(bin_of, weight * probability)
    observed = np.bincount(bin_of, weight * labels)
    records = []
    for b in range(len(rows)):
        rate = min(1.0, float(observed[b] / mass[b]))
        low, high = wilson(rate, float(mass[b] ** 2 / squares[b]))
        records.append(
            {
                "predicted": float(predicted[b] / mass[b]),
                "observed": rate,
                "rows": int(rows[b]),
                "low": low,
                "high": high,
            }
        )
    return records


def _above_thresholds(scores: Array, labels: Array, weights: Array | None) -> tuple[Array, Array]:
    """Sum the weight of positives and of negatives at or above every distinct score, from 0 at the highest on."""
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], labels[order].astype(np.float64)
    weight = np.ones(len(scores)) if weights is None else weights[order].astype(np.float64)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # last row of every tie
    hits = np.append(0.0, np.cumsum(weight * positive)[last])
    return hits, np.append(0.0, np.cumsum(weight * (1 - positive))[last])


def roc_points(scores: Array, labels: Array, weights: Array | None = None, points: int = 200) -> dict[str, list[float]]:
    """Trace the ROC curve with a limited number of exact points.

    At a threshold t: true positive rate = P(score >= t | 1), false positive rate = P(score >= t | 0). Every distinct
    score is a threshold, so ties are never split; of these the ones nearest to even spacing along the curve are kept,
    the ends (0, 0) and (1, 1) always.

    Args:
        scores: [N] numbers without NaN; larger means more likely.
        labels: [N] bool, both classes present.
        weights: [N] > 0, or None for one each.
        points: P, the largest number of points, >= 2.

    Returns:
        `false_positive_rate` and `true_positive_rate`, [P] each, not falling.

    Example:
        >>> roc_points(np.array([0.9, 0.2, 0.4]), np.array([True, False, True]))
        {'false_positive_rate': [0.0, 0.0, 0.0, 1.0], 'true_positive_rate': [0.0, 0.5, 1.0, 1.0]}
    """
    hits, alarms = _above_thresholds(scores, labels, weights)
    true_rate, false_rate = hits / hits[-1], alarms / alarms[-1]
    way = true_rate + false_rate  # rises from 0 to 2 along the curve
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], points)).clip(max=len(way) - 1))
    return {"false_positive_rate": false_rate[kept].tolist(), "true_positive_rate": true_rate[kept].tolist()}


def precision_recall_points(
    scores: Array, labels: Array, weights: Array | None = None, points: int = 200
) -> dict[str, Any]:
    """Trace the precision-recall curve with a limited number of exact points.

    At a threshold t: recall = P(score >= t | 1), precision = P(1 | score >= t). Every distinct score is a threshold;
    of these the ones nearest to even spacing along recall + false positive rate are kept, as in `roc_points`.
    Average precision = sum_k (recall_k - recall_{k-1}) precision_k over all thresholds: the area below the steps.

    Args:
        scores: [N] numbers without NaN; larger means more likely.
        labels: [N] bool, both classes present.
        weights: [N] > 0, or None for one each.
        points: P, the largest number of points, >= 2.

    Returns:
        `recall` [P], not falling and 1 at the end, `precision` [P], and `average_precision`.

    Source: Davis and Goadrich 2006, "The relationship between precision-recall and ROC curves": between two points
    the curve is no straight line, so it is drawn and summed in steps.

    Example:
        >>> precision_recall_points(np.array([0.9, 0.2, 0.4, 0.1]), np.array([True, True, False, False]))
        {'recall': [0.5, 0.5, 1.0, 1.0], 'precision': [1.0, 0.5, 0.666..., 0.5], 'average_precision': 0.833...}
    """
    hits, alarms = _above_thresholds(scores, labels, weights)
    way = hits / hits[-1] + alarms / alarms[-1]  # rises from 0 to 2 along the curve
    recall, precision = hits[1:] / hits[-1], hits[1:] / (hits[1:] + alarms[1:])
    kept = np.unique(np.searchsorted(way[1:], np.linspace(way[1], way[-1], points)).clip(max=len(recall) - 1))
    return {
        "recall": recall[kept].tolist(),
        "precision": precision[kept].tolist(),
        "average_precision": float(np.dot(np.diff(recall, prepend=0.0), precision)),
    }


def score_histogram(probability: Array, labels: Array, bins: int = 40) -> dict[str, list[float] | list[int]]:
    """Count predictions in bins that are even on the log10 scale, positives and negatives apart.

    Args:
        probability: [N] float64 in [0, 1]; what lies below 1e-9 is counted at 1e-9.
        labels: [N] bool.
        bins: Q, number of bins, >= 1.

    Returns:
        `edges` [Q+1] as probabilities, `positives` [Q] and `negatives` [Q] as rows.

    Example:
        >>> score_histogram(np.array([0.01, 0.1, 1.0]), np.array([False, False, True]), bins=2)
        {'edges': [0.01, 0.1, 1.0], 'positives': [0, 1], 'negatives': [1, 1]}
    """
    exponent = np.log10(np.maximum(probability, 1e-9))
    low, high = float(exponent.min()), float(exponent.max())
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    positives, edges = np.histogram(exponent[labels], bins, (low, high))
    negatives, _ = np.histogram(exponent[~labels], bins, (low, high))
    return {
        "edges": [float(10.0**edge) for edge in edges],
        "positives": positives.tolist(),
        "negatives": negatives.tolist(),
    }
