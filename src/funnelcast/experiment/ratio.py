"""Ratio metrics such as conversions a showing, with intervals clustered by user.

Shape legend: U clusters, such as users.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import DataError
from funnelcast.metrics import Undefined

__all__ = ["LEVEL", "Estimate", "Interval", "normal_quantile", "ratio"]

Floats = NDArray[np.float64]
Interval = tuple[float, float]
LEVEL = 0.95


def normal_quantile(level: float) -> float:
    """Return z with P(|Z| <= z) = level for a standard normal Z.

    Args:
        level: confidence level, in (0, 1).

    Example:
        >>> round(normal_quantile(0.95), 4)
        1.96
    """
    return NormalDist().inv_cdf((1 + level) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number estimated from U independent clusters.

    Var(value) = sum_u influence_u^2, Cov(a, b) = sum_u influence_a,u influence_b,u of two estimates from the same
    clusters; a cluster that has no part in an estimate has the influence 0.

    Args:
        value: the number.
        influence: [U] by how much each cluster moves it, scaled by sqrt(U / (U - 1)).
    """

    value: float
    influence: Floats

    @property
    def standard_error(self) -> float:
        """Square root of the variance."""
        return float(np.sqrt(self.influence @ self.influence))

    def interval(self, level: float = LEVEL) -> Interval | Undefined:
        """Return value -+ z * standard error, or why it is not defined.

        Normal theory: good from some hundred clusters and some dozen events on.

        Args:
            level: confidence level, in (0, 1).
        """
        if not self.influence.any():
            return Undefined("an interval needs at least two clusters that differ")
        margin = normal_quantile(level) * self.standard_error
        return self.value - margin, self.value + margin


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Estimate | Undefined:
    """Estimate a ratio of sums over clusters, r = sum_u x_u / sum_u n_u, with its error by the delta method.

    influence_u = sqrt(U / (U - 1)) (x_u - r n_u) / sum n; rows of one cluster may depend on each other in any way.

    Args:
        numerator: [U] x_u, such as a user's conversions.
        denominator: [U] n_u >= 0, such as the items the user was shown; a cluster with 0 does not count.

    Raises:
        DataError: a cluster has a numerator but no denominator, or a denominator is negative.

    Source: Deng, Knoblich and Lu, KDD 2018, "Applying the delta method in metric analytics"; the factor U / (U - 1)
        makes it the cluster-robust variance of a mean.

    Example:
        >>> estimate = ratio(np.array([1, 0, 2]), np.array([2, 2, 4]))
        >>> estimate.value, round(estimate.standard_error, 6)
        (0.375, 0.143205)
    """
    x, n = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if x.shape != n.shape or x.ndim != 1:
        raise ValueError(f"numerator and denominator should both be [U], received {x.shape} and {n.shape}")
    if (n < 0).any() or (x[n == 0] != 0).any():
        raise DataError("a cluster's denominator should be >= 0, and above 0 where its numerator is not 0")
    total, clusters = n.sum(), int(np.count_nonzero(n))
    if not clusters:
        return Undefined("the denominator is 0")
    value = float(x.sum() / total)
    if clusters == 1:
        return Estimate(value, np.zeros_like(x))
    return Estimate(value, np.sqrt(clusters / (clusters - 1)) * (x - value * n) / total)
