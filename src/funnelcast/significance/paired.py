"""Two models over the same seeds: paired t-test and Wilcoxon's signed-rank test, in each metric's own direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from funnelcast.metrics import Undefined, Value, badness

__all__ = ["PairedTest", "paired_test", "seed_interval"]

# Differences that spread less than this differ by rounding alone; no seed has had a say in them.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PairedTest:
    """What the seeds say of two models.

    Args:
        improvement: mean over seeds of how much better the first model is, in the metric's units; below 0 it is worse.
        t_p: two-sided p-value of the paired t-test.
        wilcoxon_p: two-sided p-value of Wilcoxon's signed-rank test; with n seeds it is never below 2^(1-n).
        seeds: number of pairs.
    """

    improvement: Value
    t_p: Value
    wilcoxon_p: Value
    seeds: int

    def better(self, alpha: float) -> bool:
        """Say whether the first model is better, with p below alpha by the t-test.

        Args:
            alpha: level in (0, 1).
        """
        if isinstance(self.improvement, Undefined) or isinstance(self.t_p, Undefined):
            return False
        return self.improvement > 0 and self.t_p < alpha


def paired_test(metric: str, ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> PairedTest:
    """Compare two models over the seeds that both have.

    d_k = badness(theirs_k) - badness(ours_k), so that d > 0 means that ours is better, whether the metric is to be
    high, low, or near a value; t = mean(d) / (std(d) / sqrt(n)) with n - 1 degrees of freedom.

    Args:
        metric: a key of `metrics.HIGHER_IS_BETTER` or `metrics.IDEAL`.
        ours: value by seed; None where it is undefined.
        theirs: the same of the other model.

    Raises:
        KeyError: the direction of the metric is not known.

    Source: Student 1908; Wilcoxon 1945, "Individual comparisons by ranking methods".

    Example:
        >>> test = paired_test("logloss", {0: 0.30, 1: 0.31, 2: 0.29}, {0: 0.34, 1: 0.34, 2: 0.34})
        >>> round(test.improvement, 4), round(test.t_p, 4), test.better(0.05)
        (0.04, 0.0202, True)
    """
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    gaps = np.array([badness(metric, b) - badness(metric, a) for a, b in pairs if a is not None and b is not None])
    if not len(gaps):
        none = Undefined("no seed that both experiments have")
        return PairedTest(none, none, none, 0)
    improvement = float(gaps.mean())
    if len(gaps) < 2:
        none = Undefined("one common seed, a test needs at least two")
    elif np.ptp(gaps) < _ROUNDING:
        none = Undefined("the difference is the same for every seed")
    else:
        t_p, wilcoxon_p = float(stats.ttest_1samp(gaps, 0.0).pvalue), float(stats.wilcoxon(gaps).pvalue)
        return PairedTest(improvement, t_p, wilcoxon_p, len(gaps))
    return PairedTest(improvement, none, none, len(gaps))


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Compute the t-interval of a mean over seeds: mean +- t_{n-1} std / sqrt(n).

    Args:
        values: one a seed.
        confidence: coverage, in (0, 1).

    Returns:
        The interval, or None with fewer than two values.

    Example:
        >>> [round(bound, 3) for bound in seed_interval([0.70, 0.72])]
        [0.583, 0.837]
    """
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)
