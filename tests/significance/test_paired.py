"""Tests over seeds: against scipy, in the metric's own direction, and where there is nothing to test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from funnelcast.metrics import Undefined
from funnelcast.significance.paired import paired_test, seed_interval

OURS = {0: 0.701, 1: 0.705, 2: 0.699, 3: 0.712, 4: 0.704}
THEIRS = {4: 0.700, 3: 0.706, 2: 0.698, 1: 0.699, 0: 0.695}


def test_both_tests_agree_with_scipy_and_pairs_go_by_seed() -> None:
    test = paired_test("auc", OURS, THEIRS)
    ours, theirs = ([values[seed] for seed in range(5)] for values in (OURS, THEIRS))
    assert test.t_p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9)
    assert test.wilcoxon_p == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)
    assert test.wilcoxon_p == 2**-4  # five differences of one sign: no smaller value exists
    assert test.improvement == pytest.approx(0.0046)
    assert test.seeds == 5


def test_t_by_hand() -> None:
    """d = 1, 3: mean 2, std sqrt 2, t = 2 / (sqrt 2 / sqrt 2) = 2; one degree of freedom: p = 1 - 2 atan(2) / pi."""
    assert paired_test("auc", {0: 2.0, 1: 4.0}, {0: 1.0, 1: 1.0}).t_p == pytest.approx(1 - 2 * math.atan(2) / math.pi)


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [
        ("auc", 0.80, 0.70),
        ("gauc", 0.6, 0.5),
        ("logloss", 0.30, 0.40),
        ("ne", 0.8, 0.9),
        ("ece", 0.01, 0.02),
        ("pcoc", 1.05, 0.90),
        ("pcoc", 0.95, 1.30),
        ("bias", -0.01, 0.02),
        ("rmse", 0.1, 0.2),
    ],
)
def test_t25_the_better_model_is_the_one_called_better(metric: str, good: float, bad: float) -> None:
    jitter = (0.0, 0.001, -0.001, 0.0005)
    better = {seed: good + part for seed, part in enumerate(jitter)}
    worse = {seed: bad - part / 2 for seed, part in enumerate(jitter)}
    forth, back = paired_test(metric, better, worse), paired_test(metric, worse, better)
    assert forth.better(0.01) and not back.better(0.01)
    assert isinstance(forth.improvement, float) and isinstance(back.improvement, float)
    assert forth.improvement > 0 > back.improvement
    assert forth.t_p == pytest.approx(back.t_p)


def test_a_metric_without_a_direction_is_refused() -> None:
    with pytest.raises(KeyError):
        paired_test("rows", OURS, THEIRS)


def test_other_seeds_are_left_out() -> None:
    test = paired_test("auc", {**OURS, 9: 0.1}, {**THEIRS, 7: 0.9, 1: None})
    assert test.seeds == 4
    assert test.t_p == pytest.approx(
        stats.ttest_rel([OURS[s] for s in (0, 2, 3, 4)], [THEIRS[s] for s in (0, 2, 3, 4)]).pvalue
    )


def test_without_two_different_pairs_there_is_no_test() -> None:
    one = paired_test("auc", {0: 0.7}, {0: 0.6})
    assert isinstance(one.t_p, Undefined) and one.t_p.reason == "one common seed, a test needs at least two"
    assert one.improvement == pytest.approx(0.1) and not one.better(0.01)
    none = paired_test("auc", {0: 0.7}, {1: 0.6})
    assert isinstance(none.improvement, Undefined) and not none.better(0.01)
    # A model without chance gives the same number for every seed: three copies are no three witnesses.
    same = paired_test("auc", dict.fromkeys(range(3), 0.7), dict.fromkeys(range(3), 0.6))
    assert isinstance(same.t_p, Undefined) and same.t_p.reason == "the difference is the same for every seed"
    assert not same.better(0.01)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=16), min_size=2, max_size=9))
def test_exchanging_the_models_turns_the_sign_alone(values: list[float]) -> None:
    assume(np.ptp(values) > 1e-3)
    ours, theirs = dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.5)
    forth, back = paired_test("auc", ours, theirs), paired_test("auc", theirs, ours)
    assert isinstance(forth.improvement, float) and isinstance(back.improvement, float)
    assert forth.improvement == pytest.approx(-back.improvement)
    assert forth.t_p == pytest.approx(back.t_p) and forth.wilcoxon_p == pytest.approx(back.wilcoxon_p)


def test_the_interval_over_seeds_agrees_with_statsmodels() -> None:
    values = list(OURS.values())
    assert seed_interval(values) == pytest.approx(DescrStatsW(values).tconfint_mean(0.05))
    assert seed_interval(values, 0.8) == pytest.approx(DescrStatsW(values).tconfint_mean(0.2))
    assert seed_interval(values[:1]) is None
