"""Confidence sequences against hand numbers, the package `ville`, and their own error rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ville import AsymptoticABTest, AsymptoticCS, best_rho

from funnelcast.errors import ConfigError
from funnelcast.experiment.sequence import always_valid_p, mixing_spread, radius, tightest

positive = st.floats(1e-4, 1e3)
levels = st.floats(0.001, 0.3)


def test_numbers_by_hand() -> None:
    # x = 9: sqrt(10/9 * log(10 / 0.0025)) = sqrt(10/9 * 8.29405) = 3.03573
    assert radius(1.0, 3.0, 0.05) == pytest.approx(math.sqrt(10 / 9 * math.log(4000)))
    # x = 9, z = 3: sqrt(10) exp(-81/20)
    assert always_valid_p(3.0, 1.0, 3.0) == pytest.approx(math.sqrt(10) * math.exp(-4.05))
    assert tightest(0.05) == pytest.approx(math.log1p(tightest(0.05)) - 2 * math.log(0.05))


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_it_is_the_formula_of_the_paper(alpha: float) -> None:
    sigma, n, rho = 0.7, 1234, 0.04
    theirs = sigma * math.sqrt(2 * (n * rho**2 + 1) / (n * rho) ** 2 * math.log(math.sqrt(n * rho**2 + 1) / alpha))
    assert radius(sigma / math.sqrt(n), sigma * rho, alpha) == pytest.approx(theirs)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_it_is_the_sequence_of_an_independent_package(alpha: float) -> None:
    values = np.random.default_rng(0).gamma(2.0, 1.0, 3000)
    theirs = AsymptoticCS(alpha=alpha, t_opt=700).update(values)
    assert tightest(alpha) == pytest.approx(700 / best_rho(700, alpha), rel=1e-4)
    for n in (150, 700, 3000):
        sigma = values[:n].std(ddof=1)
        rho = math.sqrt(tightest(alpha) / 700)
        ours = radius(sigma / math.sqrt(n), sigma * rho, alpha)
        assert ours == pytest.approx((theirs.upper_[n - 1] - theirs.lower_[n - 1]) / 2, rel=1e-5)
        assert theirs.estimate_[n - 1] == pytest.approx(values[:n].mean())


def test_a_difference_of_arms_is_that_of_an_independent_package() -> None:
    draw = np.random.default_rng(1)
    treated = draw.integers(0, 2, 20_000)
    bought = (draw.random(20_000) < np.where(treated, 0.23, 0.2)).astype(float)
    theirs = AsymptoticABTest(alpha=0.05, t_opt=5000).update(bought, treated)
    arms = [bought[treated == arm] for arm in (0, 1)]
    error = math.sqrt(sum(arm.var(ddof=1) / len(arm) for arm in arms))
    spread = error * math.sqrt(20_000 / 5000 * tightest(0.05))
    low, high = theirs.interval()
    # Theirs takes part in no arm's own size, which costs it little.
    assert radius(error, spread, 0.05) == pytest.approx((high - low) / 2, rel=0.02)
    assert arms[1].mean() - arms[0].mean() == pytest.approx((low + high) / 2, abs=error / 3)


@given(positive, positive, levels)
def test_the_p_value_crosses_alpha_where_the_interval_leaves_out_zero(
    error: float, spread: float, alpha: float
) -> None:
    edge = radius(error, spread, alpha)
    assert always_valid_p(edge * 1.001, error, spread) < alpha < always_valid_p(edge * 0.999, error, spread)


@given(positive, positive, levels, st.floats(0.01, 100))
def test_it_scales_with_the_estimate(error: float, spread: float, alpha: float, unit: float) -> None:
    assert radius(error * unit, spread * unit, alpha) == pytest.approx(unit * radius(error, spread, alpha))


@given(positive, positive, levels)
def test_it_is_wider_than_one_look_and_narrower_with_more_users(error: float, spread: float, alpha: float) -> None:
    assert radius(error, spread, alpha) > error * math.sqrt(-2 * math.log(alpha))
    assert radius(error / 2, spread, alpha) < radius(error, spread, alpha)


@given(st.floats(0.01, 2), levels)
def test_no_other_spread_is_tighter_where_it_was_planned(effect: float, alpha: float) -> None:
    spread = mixing_spread(effect, alpha)
    error = spread / math.sqrt(tightest(alpha))  # of the planned look
    assert radius(error, spread, alpha) + 0.8416212 * error == pytest.approx(effect)
    for factor in (0.7, 1.4):
        assert radius(error, spread * factor, alpha) > radius(error, spread, alpha)


def test_it_holds_at_many_looks() -> None:
    draw = np.random.default_rng(2)
    sums = draw.normal(size=(400, 40)).cumsum(axis=1)
    crossed = 0
    for path in sums:
        crossed += any(always_valid_p(s / n, 1 / math.sqrt(n), 0.5) < 0.05 for n, s in enumerate(path, start=1))
    assert crossed / 400 <= 0.05


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, float("nan")])
def test_an_impossible_level_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha should be above 0 and below 1"):
        tightest(alpha)
