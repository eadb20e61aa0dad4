"""Seeds and rows together: is one model better than another when both are trained again and meet other rows?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from funnelcast.metrics import Undefined, Value

__all__ = ["combined_p"]


def combined_p(gaps: Sequence[float], rows_error: Value) -> Value:
    """Compute the two-sided p-value of no difference between two models over seeds and rows.

    V = SE_rows^2 + s^2 / k,  t = mean(d) / sqrt(V),  with V^2 (k - 1) / (s^2 / k)^2 degrees of freedom

    s is the standard deviation of the differences d over k seeds. All seeds meet the same rows, so that s has nothing
    of the rows' chance and the two variances add up; the degrees of freedom are Welch's and Satterthwaite's, with
    infinitely many for the rows.

    Args:
        gaps: difference of the two models' AUC for every common seed.
        rows_error: standard error of the mean difference over other rows, with the seeds as they are, such as DeLong's.

    Returns:
        A value in [0, 1]; undefined with fewer than two seeds, without the rows' error, or where nothing varies.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".

    Example:
        >>> round(combined_p([0.010, 0.014, 0.012], 0.004), 4)  # t = 0.012 / sqrt(0.004^2 + 0.002^2 / 3) = 2.882
        0.0042
    """
    if isinstance(rows_error, Undefined):
        return rows_error
    if len(gaps) < 2:
        return Undefined("one common seed, a test of models needs at least two")
    seeds_variance = float(np.var(gaps, ddof=1)) / len(gaps)
    variance = rows_error**2 + seeds_variance
    if variance <= 0.0:
        return Undefined("the difference is the same for every seed and on every row")
    t = float(np.mean(gaps)) / variance**0.5
    if seeds_variance <= 1e-12 * variance:
        return float(2 * stats.norm.sf(abs(t)))
    return float(2 * stats.t.sf(abs(t), variance**2 * (len(gaps) - 1) / seeds_variance**2))
