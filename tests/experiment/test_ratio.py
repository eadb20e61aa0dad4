"""The delta method against hand numbers, the cluster-robust regression, and the bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from funnelcast.errors import DataError
from funnelcast.experiment.ratio import Estimate, normal_quantile, ratio
from funnelcast.metrics import Undefined


def defined(value: Estimate | Undefined) -> Estimate:
    assert isinstance(value, Estimate)
    return value


def clustered(users: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Events and showings of users with rates of their own."""
    draw = np.random.default_rng(seed)
    shown = draw.poisson(draw.gamma(2, 3, users))
    return draw.binomial(shown, draw.beta(1, 4, users)), shown


def test_numbers_by_hand() -> None:
    # r = 3/8; x - r n = 1/4, -3/4, 1/2; variance 3/2 * (1/16 + 9/16 + 4/16) / 64 = 21 / 1024
    estimate = defined(ratio(np.array([1, 0, 2]), np.array([2, 2, 4])))
    assert estimate.value == 0.375
    assert estimate.standard_error == pytest.approx(np.sqrt(21 / 1024))
    low, high = estimate.interval()  # type: ignore[misc]
    assert (low, high) == pytest.approx((0.375 - 1.959964 * 0.143205, 0.375 + 1.959964 * 0.143205), abs=1e-6)


def test_it_is_the_cluster_robust_regression() -> None:
    events, shown = clustered(57, seed=1)
    user = np.repeat(np.arange(57), shown)
    outcome = np.concatenate([np.arange(n) < x for x, n in zip(events, shown, strict=True)]).astype(float)
    fitted = sm.OLS(outcome, np.ones(len(outcome))).fit(cov_type="cluster", cov_kwds={"groups": user})
    estimate = defined(ratio(events, shown))
    assert estimate.value == pytest.approx(fitted.params[0])
    assert estimate.standard_error == pytest.approx(fitted.bse[0])
    assert estimate.interval(0.9) == pytest.approx(tuple(fitted.conf_int(0.1)[0]))


def test_it_agrees_with_the_bootstrap_over_users() -> None:
    events, shown = clustered(400, seed=2)
    pick = np.random.default_rng(3).integers(0, 400, (4000, 400))
    resampled = events[pick].sum(axis=1) / shown[pick].sum(axis=1)
    estimate = defined(ratio(events, shown))
    assert estimate.standard_error == pytest.approx(resampled.std(), rel=0.05)
    # Rows as if they were independent would be far too sure.
    naive = np.sqrt(estimate.value * (1 - estimate.value) / shown.sum())
    assert estimate.standard_error > 1.2 * naive


def test_intervals_cover_the_truth_at_their_level() -> None:
    covered = 0
    for seed in range(1000):
        events, shown = clustered(300, seed)
        low, high = defined(ratio(events, shown)).interval()  # type: ignore[misc]
        covered += low <= 0.2 <= high
    assert 0.925 < covered / 1000 < 0.97


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=2, max_size=8), st.integers(1, 5))
def test_clusters_that_were_shown_nothing_do_not_count(rows: list[tuple[int, int]], idle: int) -> None:
    x, n = (np.array(column) for column in zip(*rows, strict=True))
    without, with_idle = (defined(ratio(np.append(x, zeros), np.append(n, zeros))) for zeros in ([], [0] * idle))
    assert with_idle.value == without.value
    assert with_idle.standard_error == pytest.approx(without.standard_error)


@pytest.mark.parametrize(
    ("x", "n", "reason"),
    [([0, 0], [0, 0], "denominator is 0"), ([], [], "denominator is 0")],
)
def test_no_denominator_no_ratio(x: list[int], n: list[int], reason: str) -> None:
    found = ratio(np.array(x), np.array(n))
    assert isinstance(found, Undefined) and reason in found.reason


@pytest.mark.parametrize(("x", "n"), [([1, 0], [3, 0]), ([0, 0, 0], [3, 4, 5]), ([3, 4], [3, 4])])
def test_no_interval_without_two_clusters_that_differ(x: list[int], n: list[int]) -> None:
    interval = defined(ratio(np.array(x), np.array(n))).interval()
    assert isinstance(interval, Undefined) and "two clusters" in interval.reason


@pytest.mark.parametrize(("x", "n"), [([1, 2], [1, 0]), ([1, 2], [1, -1])])
def test_impossible_counts_are_refused(x: list[Any], n: list[Any]) -> None:
    with pytest.raises(DataError, match="should be >= 0, and above 0"):
        ratio(np.array(x), np.array(n))


def test_shapes_have_to_fit() -> None:
    with pytest.raises(ValueError, match="should both be"):
        ratio(np.ones(3), np.ones(2))


def test_quantiles_are_those_of_the_normal_distribution() -> None:
    assert [round(normal_quantile(level), 3) for level in (0.6827, 0.9, 0.99)] == [1.0, 1.645, 2.576]
