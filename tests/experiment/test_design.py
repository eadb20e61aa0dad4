"""Sample sizes against hand numbers and statsmodels' power functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import power_proportions_2indep

from funnelcast.errors import ConfigError
from funnelcast.experiment.design import Plan, binomial_step, days_needed, detectable_lift, users_needed
from funnelcast.experiment.sequence import mixing_spread, radius


def shares(rival: float) -> dict[str, float]:
    return {"control": 1 - rival, "treatment": rival}


def test_numbers_by_hand() -> None:
    # (1.959964 + 0.841621)^2 * 4 * 4 / log(1.05)^2 = 7.848879 * 16 / 0.00238048 = 52755.0
    assert users_needed(4.0, Plan(lift=0.05)) == math.ceil((1.959964 + 0.841621) ** 2 * 16 / math.log(1.05) ** 2)
    assert binomial_step("click", 0.2).log_variance == pytest.approx(0.8 / 0.2)
    assert binomial_step("click", 0.2, units=5, design_effect=2).log_variance == pytest.approx(2 * 0.8 / (0.2 * 5))


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize("power", [0.8, 0.95])
@pytest.mark.parametrize(("rate", "lift", "rival"), [(0.2, 0.05, 0.5), (0.01, 0.1, 0.2), (0.5, 0.02, 0.7)])
def test_users_are_those_of_an_independent_package(
    alpha: float, power: float, rate: float, lift: float, rival: float
) -> None:
    plan = Plan(lift=lift, power=power, alpha=alpha, shares=shares(rival))
    effect = math.log1p(lift) / math.sqrt((1 - rate) / rate)
    base = NormalIndPower().solve_power(effect, alpha=alpha, power=power, ratio=rival / (1 - rival))
    variance = binomial_step("click", rate).log_variance
    assert users_needed(variance, plan) * (1 - rival) == pytest.approx(base, rel=1e-4)
    needed = users_needed(variance, plan)
    reached = NormalIndPower().power(effect, needed * (1 - rival), alpha, ratio=rival / (1 - rival))
    assert reached == pytest.approx(power, abs=1e-4)


@pytest.mark.parametrize(("rate", "lift"), [(0.2, 0.05), (0.02, 0.1), (0.4, 0.03)])
def test_the_power_of_a_test_of_two_proportions_is_as_planned(rate: float, lift: float) -> None:
    needed = users_needed(binomial_step("click", rate).log_variance, Plan(lift=lift))
    found = power_proportions_2indep(rate * lift, rate, needed / 2, return_results=False)
    # The variance of the base in both arms and the log scale: a little off, at these lifts.
    assert found == pytest.approx(0.8, abs=0.02)


def test_the_planned_power_is_met_by_chance_experiments() -> None:
    plan = Plan(lift=0.02, shares=shares(0.3))
    needed = users_needed(binomial_step("click", 0.25).log_variance, plan)
    draw, users = np.random.default_rng(0), (round(needed * 0.7), round(needed * 0.3))
    a, b = (draw.binomial(n, p, 4000) / n for n, p in zip(users, (0.25, 0.255), strict=True))
    error = np.sqrt((1 - a) / (a * users[0]) + (1 - b) / (b * users[1]))
    z = np.abs(np.log(b / a)) / error
    assert (z > 1.959964).mean() == pytest.approx(0.8, abs=0.03)
    spread = mixing_spread(math.log1p(plan.lift), plan.alpha)
    always = users_needed(binomial_step("click", 0.25).log_variance, plan, always_valid=True)
    shrunk = error * math.sqrt(needed / always)
    noise = np.log(b / a) - math.log1p(0.02)
    found = np.abs(math.log1p(0.02) + noise * math.sqrt(needed / always)) > [radius(e, spread, 0.05) for e in shrunk]
    assert found.mean() == pytest.approx(0.8, abs=0.03)


@given(st.floats(0.01, 500), st.integers(100, 10**8), st.floats(0.05, 0.95), st.floats(0.5, 0.99), st.booleans())
def test_users_and_lifts_are_inverses(variance: float, users: int, rival: float, power: float, always: bool) -> None:
    plan = Plan(power=power, shares=shares(rival))
    lift = detectable_lift(variance, users, plan, always_valid=always)
    back = users_needed(variance, Plan(lift=lift, power=power, shares=shares(rival)), always_valid=always)
    assert back == pytest.approx(users, rel=1e-6, abs=1)


@given(st.floats(0.01, 0.9), st.floats(0.01, 0.5))
def test_more_is_asked_of_more_users(rate: float, lift: float) -> None:
    variance = binomial_step("click", rate).log_variance
    base = users_needed(variance, Plan(lift=lift))
    assert users_needed(variance, Plan(lift=lift), always_valid=True) > base
    assert users_needed(variance, Plan(lift=lift, tests=3)) > base
    assert users_needed(variance, Plan(lift=lift, power=0.9)) > base
    assert users_needed(variance, Plan(lift=lift, shares=shares(0.3))) > base
    assert users_needed(variance, Plan(lift=lift / 2)) > 2 * base


def test_the_smallest_rival_decides() -> None:
    three = Plan(shares={"control": 0.5, "one": 0.4, "two": 0.1})
    assert three.split == pytest.approx(1 / 0.5 + 1 / 0.1)


def test_days_follow_the_newcomers_and_go_on_as_their_later_half() -> None:
    assert days_needed(30, [10, 10, 10]) == 3
    assert days_needed(31, [10, 10, 10]) == 4
    assert days_needed(100, [50, 20, 4, 6]) == 4 + 4  # 80 have come, 20 are missing, 5 a day
    assert days_needed(100, [7.5]) == 14
    assert days_needed(5, [3, 0, 0]) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lift": 0.0}, "lift should be above 0, received 0.0"),
        ({"lift": float("nan")}, "lift should be above 0"),
        ({"power": 1.0}, "power should be above 0 and below 1"),
        ({"alpha": 0.0}, "alpha should be above 0 and below 1"),
        ({"shares": {"a": 1.0}}, "shares should be two or more"),
        ({"shares": {"a": 0.7, "b": 0.7}}, "above 0 with the sum 1"),
        ({"shares": {"a": 0.5, "b": float("nan")}}, "above 0 with the sum 1, received nan for 'b'"),
        ({"tests": 0}, "tests should be at least 1"),
    ],
)
def test_impossible_plans_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Plan(**options)


def test_impossible_rates_are_refused() -> None:
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="rate of 'click' should be above 0 and below 1"):
            binomial_step("click", rate)
    for options in ({"units": 0.5}, {"design_effect": 0.5}, {"units": math.inf}):
        with pytest.raises(ConfigError, match="should be at least 1"):
            binomial_step("click", 0.2, **options)
    with pytest.raises(ConfigError, match="rate of 'click' with the lift should be at most 1, received"):
        binomial_step("click", 0.9, lift=0.5)
    assert binomial_step("click", 0.8, lift=0.25) == binomial_step("click", 0.8)
    with pytest.raises(ConfigError, match="users should be at least 1"):
        detectable_lift(1.0, 0, Plan())
