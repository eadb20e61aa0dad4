"""Curves: hand-worked points, scikit-learn and scipy as references, and laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from funnelcast.curves import (
    equal_mass_bins,
    precision_recall_points,
    reliability,
    roc_points,
    score_histogram,
    wilson,
)
from funnelcast.metrics import auc, ece


def test_bins_hold_the_same_share_when_no_value_is_tied() -> None:
    values = np.random.default_rng(0).permutation(60) / 60
    assert np.bincount(equal_mass_bins(values, bins=20)).tolist() == [3] * 20


def test_a_heavy_tie_takes_a_bin_of_its_own() -> None:
    bins = equal_mass_bins(np.array([0.1, 0.1, 0.1, 0.1, 0.5, 0.6]), bins=3)
    assert bins.tolist() == [0, 0, 0, 0, 1, 1]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=50), st.integers(1, 7))
def test_bins_follow_the_value_alone_and_have_no_gap(levels: list[int], bins: int) -> None:
    values = np.array(levels, dtype=np.float64)
    number = equal_mass_bins(values, bins=bins)
    assert sorted(set(number.tolist())) == list(range(int(number.max()) + 1))
    assert number.max() < bins
    order = np.argsort(values)
    assert (np.diff(number[order]) >= 0).all()
    assert all(len(set(number[values == value].tolist())) == 1 for value in set(levels))
    doubled = equal_mass_bins(values, np.full(len(values), 2.0), bins)
    assert doubled.tolist() == number.tolist()


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (3, 7), (7, 7), (8, 10_000)])
def test_wilson_equals_scipy(hits: int, rows: int) -> None:
    expected = binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    assert wilson(hits / rows, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_reliability_by_hand() -> None:
    p, y = np.array([0.1, 0.3, 0.6, 0.8, 0.7]), np.array([True, False, False, True, True])
    low, high = reliability(p, y, bins=2)
    assert (low["rows"], high["rows"]) == (2, 3)
    assert low["predicted"] == pytest.approx(0.2)
    assert high["predicted"] == pytest.approx(0.7)
    assert low["observed"] == 0.5
    assert high["observed"] == pytest.approx(2 / 3)
    assert (high["low"], high["high"]) == wilson(2 / 3, 3)


def test_reliability_uses_weights_and_the_effective_number_of_rows() -> None:
    weights = np.array([1.0, 3.0])
    (one,) = reliability(np.array([0.2, 0.6]), np.array([True, False]), weights, bins=1)
    assert one["predicted"] == pytest.approx(0.5)
    assert one["observed"] == 0.25
    assert (one["low"], one["high"]) == wilson(0.25, 16 / 10)


def test_reliability_bins_give_the_ece() -> None:
    rng = np.random.default_rng(5)
    p = np.round(rng.random(997), 2)
    y = rng.random(997) < p**2
    bins = reliability(p, y)
    total = sum(b["rows"] * abs(b["predicted"] - b["observed"]) for b in bins) / 997
    assert ece(p, y) == pytest.approx(total)


@pytest.mark.parametrize("weighted", [False, True])
def test_roc_points_lie_on_the_exact_curve(weighted: bool) -> None:
    rng = np.random.default_rng(6)
    y = rng.random(3001) < 0.1
    scores = np.log(np.round(rng.random(3001) + 0.2 * y, 3) + 0.001)
    weights = rng.random(3001) + 0.1 if weighted else None
    curve = roc_points(scores, y, weights)
    false_rate, true_rate, _ = roc_curve(y, scores, sample_weight=weights, drop_intermediate=False)
    x, t = np.array(curve["false_positive_rate"]), np.array(curve["true_positive_rate"])
    assert 150 < len(x) <= 200
    assert (x[0], t[0], x[-1], t[-1]) == (0, 0, 1, 1)
    distance = np.abs(x[:, None] - false_rate) + np.abs(t[:, None] - true_rate)
    assert distance.min(axis=1).max() < 1e-12
    exact = auc(scores, y, weights)
    assert isinstance(exact, float)
    assert np.trapezoid(t, x) == pytest.approx(exact, abs=1e-3)


def test_histogram_counts_every_row() -> None:
    p = np.array([0.0, 1e-12, 0.001, 0.2, 0.9])
    y = np.array([False, False, True, False, True])
    histogram = score_histogram(p, y, bins=7)
    assert sum(histogram["positives"]) == 2
    assert sum(histogram["negatives"]) == 3
    assert len(histogram["edges"]) == 8
    assert histogram["negatives"][0] == 2
    assert histogram["edges"][0] == pytest.approx(1e-9)
    assert histogram["edges"][-1] == pytest.approx(0.9)


def test_histogram_of_a_constant_has_room() -> None:
    histogram = score_histogram(np.full(3, 0.25), np.array([True, False, False]), bins=4)
    assert sum(histogram["positives"]) + sum(histogram["negatives"]) == 3
    assert histogram["edges"][0] < 0.25 < histogram["edges"][-1]


def test_precision_recall_by_hand() -> None:
    # Thresholds 0.9, 0.5 (a tie of a positive and a negative), 0.1: hits 1, 2, 3 of 3, alarms 0, 1, 1.
    scores, labels = np.array([0.5, 0.9, 0.1, 0.5]), np.array([True, True, True, False])
    curve = precision_recall_points(scores, labels)
    assert curve["recall"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve["precision"] == pytest.approx([1, 2 / 3, 3 / 4])
    assert curve["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # A weight of 2 on the negative: hits 1, 2, 3, alarms 0, 2, 2.
    weighted = precision_recall_points(scores, labels, np.array([1.0, 1.0, 1.0, 2.0]))
    assert weighted["precision"] == pytest.approx([1, 1 / 2, 3 / 5])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 3)), min_size=2, max_size=40))
def test_precision_recall_equals_scikit_learn(rows: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    if labels.all() or not labels.any():
        labels[0] = ~labels[0]
    curve = precision_recall_points(scores, labels, weights)
    precision, recall, _ = precision_recall_curve(labels, scores, sample_weight=weights)
    assert curve["recall"] == pytest.approx(recall[-2::-1].tolist())
    assert curve["precision"] == pytest.approx(precision[-2::-1].tolist())
    expected = average_precision_score(labels, scores, sample_weight=weights)
    assert curve["average_precision"] == pytest.approx(expected)


def test_many_thresholds_leave_few_exact_points_of_precision_and_recall() -> None:
    draw = np.random.default_rng(5)
    labels = draw.random(3000) < 0.1
    scores = draw.normal(labels * 1.0, 1.0)
    curve = precision_recall_points(scores, labels, points=50)
    assert 25 < len(curve["recall"]) <= 50
    assert curve["recall"][-1] == 1.0
    assert curve["precision"][-1] == pytest.approx(labels.mean())
    precision, recall, _ = precision_recall_curve(labels, scores)
    exact = set(zip(np.round(recall, 9).tolist(), np.round(precision, 9).tolist(), strict=True))
    assert set(zip(np.round(curve["recall"], 9), np.round(curve["precision"], 9), strict=True)) <= exact
    assert curve["average_precision"] == pytest.approx(average_precision_score(labels, scores))
