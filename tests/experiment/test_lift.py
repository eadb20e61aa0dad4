"""Relative lifts against hand numbers, a Poisson regression, and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm

from funnelcast.experiment.lift import Lift, relative_lift
from funnelcast.experiment.ratio import ratio
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
