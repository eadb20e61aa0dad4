"""DeLong's test against the covariance written out over all pairs of rows, and against the bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from funnelcast.auc import exact_auc
from funnelcast.metrics import Undefined
from funnelcast.significance.bootstrap import resampled_auc
from funnelcast.significance.delong import (
    Outcome,
    auc_interval,
    compare_placements,
    placements,
    standard_error,
)

Array = NDArray[Any]


def drawn(seed: int, rows: int = 90, rate: float = 0.3, digits: int = 1) -> tuple[Array, Array, Array]:
    """Labels and two models' scores with many ties."""
    draw = np.random.default_rng(seed)
    labels = draw.random(rows) < rate
    labels[:4] = [True, True, False, False]
    shared = draw.normal(size=rows)
    ours, theirs = (np.round(skill * labels + shared + draw.normal(size=rows), digits) for skill in (1.0, 0.6))
    return labels, ours.astype(np.float32), theirs.astype(np.float32)


def covariance_over_all_pairs(models: list[Array], labels: Array) -> tuple[Array, Array]:
    """AUC [2] and DeLong's covariance [2, 2] from the matrix of all m x n pairs, S10 / m + S01 / n."""
    positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
    won = np.array(
        [[[1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0 for j in negative] for i in positive] for s in models]
    )
    rows, columns = won.mean(axis=2), won.mean(axis=1)  # V10 [2, m], V01 [2, n]
    return won.mean(axis=(1, 2)), np.cov(rows) / len(positive) + np.cov(columns) / len(negative)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [0, 1, 6])
def test_placements_give_the_covariance_over_all_pairs(seed: int, digits: int) -> None:
    labels, ours, theirs = drawn(seed, rows=70 + 9 * seed, digits=digits)
    aucs, covariance = covariance_over_all_pairs([ours, theirs], labels)
    outcome = Outcome(labels)
    placed = [placements(scores, outcome) for scores in (ours, theirs)]
    for i in (0, 1):
        assert placed[i][labels].mean() == pytest.approx(aucs[i], abs=1e-12)
        assert placed[i][~labels].mean() == pytest.approx(aucs[i], abs=1e-12)
        assert standard_error(placed[i], outcome) == pytest.approx(covariance[i, i] ** 0.5, abs=1e-12)
    found = compare_placements(placed[0], placed[1], outcome)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.value == pytest.approx(aucs[0] - aucs[1], abs=1e-12)
    assert found.standard_error == pytest.approx(variance**0.5, abs=1e-12)
    assert found.interval() == pytest.approx(
        (found.value - 1.959964 * variance**0.5, found.value + 1.959964 * variance**0.5), abs=1e-6
    )


def test_seeds_are_averaged_in_the_placements() -> None:
    """The AUC of two seeds: the variance of the mean is a quarter of the sum of the whole covariance matrix."""
    labels, first, second = drawn(7)
    outcome = Outcome(labels)
    _, covariance = covariance_over_all_pairs([first, second], labels)
    mean = (placements(first, outcome) + placements(second, outcome)) / 2
    assert standard_error(mean, outcome) == pytest.approx((covariance.sum() / 4) ** 0.5, abs=1e-12)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_placements_do_not_depend_on_the_type(kind: str) -> None:
    labels, ours, _ = drawn(1)
    assert np.array_equal(placements(ours.astype(kind), Outcome(labels)), placements(ours, Outcome(labels)))


def test_whole_weights_are_rows_that_come_several_times() -> None:
    labels, ours, theirs = drawn(2)
    times = np.random.default_rng(0).integers(1, 4, len(labels))
    weighted, copied = Outcome(labels, times.astype(np.float64)), Outcome(np.repeat(labels, times))
    placed = placements(ours, weighted)
    assert np.repeat(placed, times) == pytest.approx(placements(np.repeat(ours, times), copied), abs=1e-12)
    assert weighted.shares()[labels] @ placed[labels] == pytest.approx(exact_auc(ours, labels, times.astype(float)))
    # Copies are no witnesses of their own: with each row's copies as one cluster the errors agree as well.
    clusters = np.repeat(np.arange(len(labels)), times)
    gap = placed - placements(theirs, weighted)
    grouped = Outcome(np.repeat(labels, times), None, clusters)
    assert standard_error(gap, weighted) == pytest.approx(standard_error(np.repeat(gap, times), grouped), rel=1e-9)
    assert standard_error(np.repeat(gap, times), copied) < standard_error(np.repeat(gap, times), grouped)  # type: ignore[operator]


def test_rows_that_are_clusters_of_one_make_no_difference() -> None:
    labels, ours, _ = drawn(3)
    placed = placements(ours, Outcome(labels))
    alone = Outcome(labels, None, np.random.default_rng(1).permutation(len(labels)))
    assert standard_error(placed, alone) == pytest.approx(standard_error(placed, Outcome(labels)), rel=1e-12)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_error_agrees_with_the_bootstrap(clustered: bool) -> None:
    labels, ours, theirs = drawn(4, rows=1500, rate=0.2)
    users = np.random.default_rng(5).integers(0, 300, len(labels))
    outcome = Outcome(labels, None, np.unique(users, return_inverse=True)[1] if clustered else None)
    found = compare_placements(placements(ours, outcome), placements(theirs, outcome), outcome)
    gaps = resampled_auc(ours, outcome, 2000, 0) - resampled_auc(theirs, outcome, 2000, 0)
    assert np.std(gaps) == pytest.approx(found.standard_error, rel=0.08)  # 5 times the error of 2,000 resamples
    assert np.mean(gaps) == pytest.approx(found.value, abs=5 * np.std(gaps) / 2000**0.5)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_delong_is_symmetric(seed: int, clustered: bool) -> None:
    labels, ours, theirs = drawn(seed, rows=30)
    outcome = Outcome(labels, None, np.arange(30) // 3 if clustered else None)
    left, right = placements(ours, outcome), placements(theirs, outcome)
    forth, back = compare_placements(left, right, outcome), compare_placements(right, left, outcome)
    assert forth.value == pytest.approx(-back.value, abs=1e-15)
    assert forth.standard_error == pytest.approx(back.standard_error)
    assert isinstance(forth.p, float) and forth.p == pytest.approx(back.p)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_any_rising_map_of_the_scores_changes_nothing(seed: int) -> None:
    labels, ours, _ = drawn(seed, rows=25)
    outcome = Outcome(labels)
    assert placements(np.exp(ours.astype(np.float64)), outcome) == pytest.approx(placements(ours, outcome))


def test_without_spread_there_is_no_test() -> None:
    labels = np.array([True, False, False, True])
    outcome = Outcome(labels)
    same = placements(np.array([3.0, 1.0, 2.0, 0.5]), outcome)
    assert compare_placements(same, same, outcome).p == 1.0
    perfect = placements(np.array([3.0, 1.0, 1.0, 3.0]), outcome)
    constant = placements(np.zeros(4), outcome)
    found = compare_placements(perfect, constant, outcome)
    assert found.value == 0.5
    assert isinstance(found.p, Undefined) and found.p.reason == "the difference is the same on every row"
    one = Outcome(np.array([True, False, False]))
    lone = placements(np.array([1.5, 1.0, 2.0]), one)
    assert standard_error(lone, one) == Undefined("a class with one row, its spread needs at least two")
    assert compare_placements(lone, lone, one).interval() is None
    together = Outcome(labels, None, np.zeros(4, dtype=np.int64))
    assert standard_error(same, together) == Undefined("a class with one user, its spread needs at least two")


def test_the_interval_of_an_auc_stays_between_0_and_1() -> None:
    labels = np.array([True] * 4 + [False] * 30)
    scores = np.concatenate([[30.0, 29.0, 28.0, 26.5], np.arange(30.0) - 1])
    outcome = Outcome(labels)
    placed = placements(scores, outcome)
    interval = auc_interval(placed, outcome)
    assert interval is not None and 0.8 < interval[0] < placed[labels].mean() < interval[1] < 1
    error = standard_error(placed, outcome)
    auc = float(placed[labels].mean())
    assert isinstance(error, float)
    middle, half = np.log(auc / (1 - auc)), 1.959964 * error / (auc * (1 - auc))
    assert interval == pytest.approx(tuple(1 / (1 + np.exp(-(middle + s * half))) for s in (-1, 1)), abs=1e-7)
    assert auc_interval(np.ones(34), outcome) is None
