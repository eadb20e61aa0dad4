"""DeLong's test: how far the AUC of models on shared rows can be trusted, in one sort a score.

Shape legend: N rows, C clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.auc import ordered_integers
from funnelcast.metrics import Undefined, Value

__all__ = ["Difference", "Outcome", "auc_interval", "compare_placements", "placements", "standard_error"]

Array = NDArray[Any]
# Standard errors below this are rounding: AUC that are sums of up to 1e9 shares agree to fewer digits.
_ROUNDING = 1e-12
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Outcome:
    """What happened on the rows that all models are measured on.

    Args:
        labels: [N] bool, both classes among them.
        weights: [N] float64 > 0, or None for one each.
        clusters: [N] int64 in 0..C-1, the user of each row; None where every row stands for itself.
    """

    labels: Array
    weights: Array | None = None
    clusters: Array | None = None

    def mass(self) -> Array:
        """[N] float64 weight of each row."""
        return np.ones(len(self.labels)) if self.weights is None else self.weights

    def shares(self) -> Array:
        """[N] weight of each row as a share of its class."""
        weight = self.mass()
        positive = weight[self.labels].sum()
        shares: Array = weight / np.where(self.labels, positive, weight.sum() - positive)
        return shares


def placements(scores: Array, outcome: Outcome) -> Array:
    """Compute DeLong's structural components of an AUC, the share of the other class that each row is well placed to.

    V_i = P(s- < s_i) + P(s- = s_i) / 2 of a positive, V_j = P(s+ > s_j) + P(s+ = s_j) / 2 of a negative row, both
    weighted; their means over either class are the AUC.

    Args:
        scores: [N] float32 or float64 without NaN.
        outcome: labels and weights of the rows.

    Returns:
        [N] float64 in [0, 1].

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988; in O(N log N) after Sun and Xu, IEEE SPL 2014.

    Example:
        >>> placements(np.array([0.1, 0.4, 0.4, 0.8]), Outcome(np.array([False, False, True, True]))).tolist()
        [1.0, 0.75, 0.75, 1.0]
    """
    keys = ordered_integers(scores)
    order = _order(keys)
    keys = keys[order]
    ties = np.cumsum(np.append(False, keys[1:] != keys[:-1]))  # [N] number of each row's tie
    labels, share = outcome.labels[order], outcome.shares()[order]
    negative = np.bincount(ties, np.where(labels, 0.0, share))
    positive = np.bincount(ties, np.where(labels, share, 0.0))
    below = np.cumsum(negative) - negative / 2
    above = positive.sum() - np.cumsum(positive) + positive / 2
    found = np.empty(len(order))
    found[order] = np.where(labels, below[ties], above[ties])
    return found


def _order(keys: Array) -> Array:
    """[N] uint32 or uint64 -> row numbers by rising key; a sort of key above row number costs a third of an argsort."""
    if keys.dtype != np.uint32 or len(keys) >> 32:
        return np.argsort(keys)
    packed = keys.astype(np.uint64) << np.uint64(32)
    packed |= np.arange(len(keys), dtype=np.uint32)
    packed.sort()
    return packed.astype(np.uint32)


def standard_error(values: Array, outcome: Outcome) -> Value:
    """Compute the standard error of the mean of placements, or of a difference of two models' placements.

    SE^2 = C+/(C+ - 1) sum P_c^2 + C-/(C- - 1) sum Q_c^2 + 2 C/(C - 1) sum P_c Q_c, where P_c and Q_c are the sums of
    share_i (V_i - mean V of the row's class) over a cluster's positives and negatives, and C+, C- and C count the
    clusters with a positive, with a negative, and all. Where every row is a cluster of weight 1, this is DeLong's.

    Args:
        values: [N] placements, averaged over seeds where there are several, or a difference of such.
        outcome: labels, weights and clusters of the rows.

    Returns:
        >= 0; undefined where a class comes from one cluster alone.

    Source: DeLong et al. 1988; Obuchowski, Biometrics 1997, "Nonparametric analysis of clustered ROC curve data", with
        weights by linearisation of the ratio.
    """
    labels, share = outcome.labels, outcome.shares()
    means = [float(np.dot(share[kind], values[kind])) for kind in (~labels, labels)]
    influence = share * (values - np.where(labels, means[1], means[0]))
    unit = "row" if outcome.clusters is None else "user"
    if outcome.clusters is None:
        sums = [influence[labels], influence[~labels]]
        counts = [len(part) for part in sums]
        product = 0.0
    else:
        size = int(outcome.clusters.max()) + 1
        sums = [np.bincount(outcome.clusters[kind], influence[kind], size) for kind in (labels, ~labels)]
        counts = [int(np.count_nonzero(np.bincount(outcome.clusters[kind]))) for kind in (labels, ~labels)]
        everyone = int(np.count_nonzero(np.bincount(outcome.clusters)))
        product = 2 * everyone / max(everyone - 1, 1) * float(np.dot(*sums))
    if min(counts) < 2:
        return Undefined(f"a class with one {unit}, its spread needs at least two")
    squares = sum(count / (count - 1) * float(np.dot(part, part)) for part, count in zip(sums, counts, strict=True))
    return float(np.sqrt(max(squares + product, 0.0)))


@dataclass(frozen=True)
class Difference:
    """The difference of two AUC on shared rows.

    Args:
        value: AUC of the first model less that of the second.
        standard_error: of the difference.
        p: two-sided, of no difference, by the normal distribution.
    """

    value: float
    standard_error: Value
    p: Value

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Compute value +- z SE, or None without a standard error.

        Args:
            confidence: coverage, in (0, 1).
        """
        if isinstance(self.standard_error, Undefined):
            return None
        half = _NORMAL.inv_cdf(0.5 + confidence / 2) * self.standard_error
        return self.value - half, self.value + half


def compare_placements(ours: Array, theirs: Array, outcome: Outcome) -> Difference:
    """Test whether two models have the same AUC: z = (A - A') / SE(A - A').

    Args:
        ours: [N] placements, averaged over seeds where there are several.
        theirs: the same of the other model.
        outcome: labels, weights and clusters of the rows.

    Example:
        >>> labels = np.array([False, False, True, True, True])
        >>> outcome = Outcome(labels)
        >>> scores = np.array([[1.0, 4.0, 3.0, 5.0, 6.0], [1.0, 4.0, 2.0, 3.0, 6.0]])
        >>> found = compare_placements(*(placements(row, outcome) for row in scores), outcome)
        >>> round(found.value, 4), round(found.p, 4)
        (0.1667, 0.4795)
    """
    gap = ours - theirs
    positive = outcome.labels
    value = float(np.dot(outcome.shares()[positive], gap[positive]))
    error = standard_error(gap, outcome)
    if isinstance(error, Undefined):
        return Difference(value, error, error)
    if error < _ROUNDING:
        same = abs(value) < _ROUNDING
        return Difference(value, error, 1.0 if same else Undefined("the difference is the same on every row"))
    return Difference(value, error, math.erfc(abs(value) / error / math.sqrt(2)))


def auc_interval(values: Array, outcome: Outcome, confidence: float = 0.95) -> tuple[float, float] | None:
    """Compute the interval of an AUC on the scale of its log-odds: logit A +- z SE / (A (1 - A)), mapped back.

    Args:
        values: [N] placements, averaged over seeds where there are several.
        outcome: labels, weights and clusters of the rows.
        confidence: coverage, in (0, 1).

    Returns:
        An interval within [0, 1], or None where the AUC is 0 or 1 or has no standard error.

    Source: Pepe 2003, "The statistical evaluation of medical tests", section 5.2.
    """
    positive = outcome.labels
    auc = float(np.dot(outcome.shares()[positive], values[positive]))
    error = standard_error(values, outcome)
    if isinstance(error, Undefined) or not _ROUNDING < auc < 1 - _ROUNDING:
        return None
    half = _NORMAL.inv_cdf(0.5 + confidence / 2) * error / (auc * (1 - auc))
    middle = np.log(auc / (1 - auc))
    return float(1 / (1 + np.exp(half - middle))), float(1 / (1 + np.exp(-half - middle)))
