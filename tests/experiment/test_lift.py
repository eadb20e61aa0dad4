"""Relative lifts against hand numbers, a Poisson regression, and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm

from funnelcast.experiment.lift import Lift, bounds, relative_lift
from funnelcast.experiment.ratio import Estimate, ratio
from funnelcast.metrics import Undefined


def defined(value: Lift | Undefined) -> Lift:
    assert isinstance(value, Lift)
    return value


def test_numbers_by_hand() -> None:
    # a = 6/20 with residuals -1, 1; b = 12/20 with residuals -2, 2: each log variance is 2 * 2 / 400 / 0.09 = 1/9
    a = ratio(np.array([2, 4, 0, 0]), np.array([10, 10, 0, 0]))
    b = ratio(np.array([0, 0, 4, 8]), np.array([0, 0, 10, 10]))
    lift = defined(relative_lift(a, b))
    assert lift.value == pytest.approx(1.0)
    assert lift.log_error == pytest.approx(math.sqrt(2 / 9))
    assert lift.interval(0.95) == pytest.approx(
        (2 * math.exp(-1.959964 * 0.4714045) - 1, 2 * math.exp(1.959964 * 0.4714045) - 1), rel=1e-5
    )


def test_pairing_takes_out_what_both_arms_share() -> None:
    draw = np.random.default_rng(0)
    shown, taste = np.full(500, 20), draw.beta(1, 3, 500)
    base = draw.binomial(shown, taste)
    other = base + draw.binomial(20 - base, 0.05)
    paired = defined(relative_lift(ratio(base, shown), ratio(other, shown)))
    nothing = np.zeros(500, dtype=np.int64)
    apart = defined(
        relative_lift(
            ratio(np.append(base, nothing), np.append(shown, nothing)),
            ratio(np.append(nothing, other), np.append(nothing, shown)),
        )
    )
    assert paired.value == pytest.approx(apart.value)
    pick = np.random.default_rng(1).integers(0, 500, (4000, 500))
    resampled = np.log(other[pick].sum(axis=1) / base[pick].sum(axis=1))
    assert paired.log_error == pytest.approx(resampled.std(), rel=0.05)
    assert paired.log_error < 0.3 * apart.log_error


@pytest.mark.parametrize("paired", [False, True])
def test_it_is_the_cluster_robust_poisson_regression(paired: bool) -> None:
    draw = np.random.default_rng(4)
    shown = draw.integers(1, 30, (2, 300))
    events = draw.binomial(shown, draw.beta(2, 5, 300) * np.array([[1.0], [0.8]]))
    if not paired:
        own = np.arange(300) % 3 == 0
        shown, events = shown * np.array([own, ~own]), events * np.array([own, ~own])
    lift = defined(relative_lift(ratio(events[0], shown[0]), ratio(events[1], shown[1])))
    arm, user = np.repeat([0, 1], 300), np.tile(np.arange(300), 2)
    kept = shown.ravel() > 0
    model = sm.GLM(
        events.ravel()[kept],
        np.stack([np.ones(600), arm], axis=1)[kept],
        family=sm.families.Poisson(),
        offset=np.log(shown.ravel()[kept]),
    )
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": user[kept]})
    assert math.log1p(lift.value) == pytest.approx(fitted.params[1])
    assert lift.log_error == pytest.approx(fitted.bse[1], rel=0.01)  # its factor for few clusters is another


def test_swapping_the_arms_inverts_lift_and_interval() -> None:
    a, b = ratio(np.array([3, 1, 0, 0]), np.array([9, 8, 0, 0])), ratio(np.array([0, 0, 5, 2]), np.array([0, 0, 7, 9]))
    forth, back = defined(relative_lift(a, b)), defined(relative_lift(b, a))
    assert (1 + forth.value) * (1 + back.value) == pytest.approx(1)
    (low, high), (low_back, high_back) = forth.interval(), back.interval()  # type: ignore[misc]
    assert (1 + low) * (1 + high_back) == pytest.approx(1)
    assert (1 + high) * (1 + low_back) == pytest.approx(1)
    assert low > -1


def test_no_events_no_lift() -> None:
    none, some, nobody = (
        ratio(np.array(x), np.array([4, 4, n])) for x, n in (([0, 0, 0], 1), ([1, 2, 0], 1), ([0] * 3, 0))
    )
    for pair in ((none, some), (some, none)):
        found = relative_lift(*pair)
        assert isinstance(found, Undefined) and found.reason == "an arm has no events"
    empty = ratio(np.zeros(3), np.zeros(3))
    assert isinstance(relative_lift(some, empty), Undefined) and isinstance(empty, Undefined)
    assert isinstance(relative_lift(some, nobody), Undefined)


def test_equal_arms_have_a_lift_of_nothing_without_interval() -> None:
    arm = ratio(np.array([1, 2, 0]), np.array([4, 4, 4]))
    lift = defined(relative_lift(arm, arm))
    assert lift.value == 0
    assert isinstance(lift.interval(), Undefined)


def test_arms_over_other_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="same clusters"):
        relative_lift(ratio(np.array([1, 2]), np.array([4, 4])), ratio(np.array([1, 2, 3]), np.array([4, 4, 4])))


@pytest.mark.parametrize("rate", [1e-16, 1e-12, 0.001])
def test_a_rate_that_is_nothing_beside_its_error_has_no_lift(rate: float) -> None:
    # As CUPED can leave it: the error of 0.05 is at least 50 times the rate, and exp(1.96 * 5e14) is no number.
    left, whole = Estimate(rate, np.array([0.05, 0, 0])), Estimate(0.3, np.array([0, 0.1, 0.1]))
    for pair in ((left, whole), (whole, left)):
        found = relative_lift(*pair)
        assert isinstance(found, Undefined) and found.reason == "the rate of an arm is too near to 0 for its error"


def test_rates_of_counts_are_never_too_near_to_0() -> None:
    # The least sure there is: one user of a thousand with an event in each arm, each with a relative error of
    # sqrt(1000 / 999 * ((1 - 1 / 1000)^2 + 999 / 1000^2)) = 1, so that the lift has sqrt(2).
    events, shown = np.zeros(2000), np.repeat([1.0, 0.0], 1000)
    a, b = (
        ratio(np.where(np.arange(2000) == 0, 1, events), shown),
        ratio(np.where(np.arange(2000) == 1999, 1, events), 1 - shown),
    )
    lift = defined(relative_lift(a, b))
    assert lift.log_error == pytest.approx(math.sqrt(2))


def test_rates_too_far_apart_have_no_lift() -> None:
    # 1 + lift = 1e-17 would be 0, whose logarithm is none.
    small, large = Estimate(1e-17, np.array([1e-18, 0])), Estimate(1.0, np.array([0, 0.1]))
    for pair in ((small, large), (large, small)):
        found = relative_lift(*pair)
        assert isinstance(found, Undefined) and found.reason == "the rates of the two arms are too far apart"


def test_an_interval_that_is_no_number_is_undefined() -> None:
    found = bounds(0.1, 1000.0)
    assert isinstance(found, Undefined) and found.reason == "the interval is too wide to be a number"
    assert bounds(0.0, math.log(2)) == pytest.approx((-0.5, 1.0))
