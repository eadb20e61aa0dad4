"""Metrics: hand-worked numbers, scikit-learn as the reference, and laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from funnelcast.gauc import gauc
from funnelcast.metrics import (
    HIGHER_IS_BETTER,
    IDEAL,
    Undefined,
    auc,
    badness,
    brier,
    ece,
    error_to_truth,
    logloss,
    normalised_entropy,
    pcoc,
)

Array = NDArray[Any]


@st.composite
def rows(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Probabilities with many ties, labels of both classes, whole weights (0 among them)."""
    n = draw(st.integers(2, 40))
    level = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    assume(weights[labels].sum() > 0 and weights[~labels].sum() > 0)
    return np.array(level) / 10, labels, weights


def test_auc_by_hand() -> None:
    # Positives 0.8 and 0.4 against negatives 0.4, 0.1, 0.9: pairs won 2 + (0.5 + 1), of 6.
    assert auc(np.array([0.8, 0.4, 0.4, 0.1, 0.9]), np.array([1, 1, 0, 0, 0])) == pytest.approx(3.5 / 6)


def test_auc_weighted_by_hand() -> None:
    # Positive 0.5 (weight 2) beats 0.2 (weight 3) and loses to 0.7 (weight 1).
    value = auc(np.array([0.5, 0.2, 0.7]), np.array([1, 0, 0]), np.array([2.0, 3.0, 1.0]))
    assert value == pytest.approx(3 / 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_equals_scikit_learn_with_ties(dtype: type[np.floating[Any]], weighted: bool) -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(5003) < 0.2
    scores = np.log(np.round(rng.random(5003) * 0.5 + labels * 0.1 + 0.01, 2)).astype(dtype)
    weights = rng.integers(0, 4, 5003) / 2 if weighted else None
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(scores, labels, weights) == pytest.approx(expected, abs=1e-12)


def test_t1_auc_is_exact_at_a_rate_of_0_08_percent() -> None:
    """A curve with 200 bins of equal width reports 0.53 on such data; the exact value is far from it."""
    rng = np.random.default_rng(2)
    log_odds = rng.normal(-7.6, 1.0, 400_000)
    probability = 1 / (1 + np.exp(-log_odds))
    labels = rng.random(400_000) < probability
    assert labels.mean() == pytest.approx(0.0008, abs=2e-4)
    exact = roc_auc_score(labels, probability)
    assert auc(np.log(probability), labels) == pytest.approx(exact, abs=1e-12)
    binned = roc_auc_score(labels, np.floor(probability * 200))
    assert abs(binned - exact) > 0.1


@settings(deadline=None, max_examples=60)
@given(rows())
def test_auc_does_not_change_under_a_rising_map(data: tuple[Array, Array, Array]) -> None:
    scores, labels, weights = data
    assert auc(scores, labels, weights) == auc(np.log(scores), labels, weights) == auc(scores**3 - 7, labels, weights)


@settings(deadline=None, max_examples=60)
@given(rows())
def test_auc_of_swapped_classes_is_the_complement(data: tuple[Array, Array, Array]) -> None:
    scores, labels, weights = data
    value, mirrored = auc(scores, labels, weights), auc(scores, ~labels, weights)
    assert isinstance(value, float) and isinstance(mirrored, float)
    assert value + mirrored == pytest.approx(1)


@settings(deadline=None, max_examples=60)
@given(rows())
def test_a_weight_equals_repetition(data: tuple[Array, Array, Array]) -> None:
    p, y, w = data
    again = np.repeat(np.arange(len(p)), w)
    user = np.arange(len(p)) % 3
    log_p, log_not_p = np.log(p), np.log1p(-p)
    truth = np.linspace(0.1, 0.9, len(p))
    pairs = [
        (auc(p, y, w), auc(p[again], y[again])),
        (logloss(log_p, log_not_p, y, w), logloss(log_p[again], log_not_p[again], y[again])),
        (normalised_entropy(log_p, log_not_p, y, w), normalised_entropy(log_p[again], log_not_p[again], y[again])),
        (pcoc(p, y, w), pcoc(p[again], y[again])),
        (ece(p, y, w, bins=4), ece(p[again], y[again], bins=4)),
        (brier(p, y, w), brier(p[again], y[again])),
        (gauc(p, y, user, w).value, gauc(p[again], y[again], user[again]).value),
        (gauc(p, y, user, w).covered, gauc(p[again], y[again], user[again]).covered),
        *zip(error_to_truth(p, truth, w).values(), error_to_truth(p[again], truth[again]).values(), strict=True),
    ]
    for weighted, repeated in pairs:
        if isinstance(weighted, Undefined):
            assert isinstance(repeated, Undefined)
        else:
            assert weighted == pytest.approx(repeated, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(rows(), st.randoms())
def test_no_metric_depends_on_the_order_of_the_rows(data: tuple[Array, Array, Array], random: Any) -> None:
    p, y, w = data
    order = np.array(random.sample(range(len(p)), len(p)))
    assert ece(p, y, w, bins=5) == pytest.approx(ece(p[order], y[order], w[order], bins=5), abs=1e-12)
    assert auc(p, y, w) == pytest.approx(auc(p[order], y[order], w[order]), abs=1e-12)


def test_logloss_and_brier_equal_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    p, y, w = rng.random(301), rng.random(301) < 0.3, rng.random(301)
    assert logloss(np.log(p), np.log1p(-p), y, w) == pytest.approx(log_loss(y, p, sample_weight=w))
    assert brier(p, y, w) == pytest.approx(brier_score_loss(y, p, sample_weight=w))


def test_logloss_is_exact_where_the_probability_rounds_to_one() -> None:
    assert logloss(np.array([-1e-30]), np.array([-69.0]), np.array([False])) == 69.0


def test_normalised_entropy_by_hand() -> None:
    # Base rate 1/4: the constant prediction 1/4 has NE 1; the loss of p = 1/2 is log 2.
    y = np.array([1, 0, 0, 0])
    assert normalised_entropy(np.log(np.full(4, 0.25)), np.log(np.full(4, 0.75)), y) == pytest.approx(1)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    half = np.log(np.full(4, 0.5))
    assert normalised_entropy(half, half, y) == pytest.approx(np.log(2) / entropy)


def test_pcoc_by_hand() -> None:
    assert pcoc(np.array([0.2, 0.4, 0.9]), np.array([0, 1, 1])) == pytest.approx(0.75)
    assert pcoc(np.array([0.2, 0.4, 0.9]), np.array([0, 1, 1]), np.array([1, 2, 1])) == pytest.approx(1.9 / 3)


def test_ece_by_hand() -> None:
    # Two bins of equal mass: mean p 0.2 against 1/2, mean p 0.7 against 1/2; weights 1/2 each.
    p, y = np.array([0.1, 0.3, 0.6, 0.8]), np.array([1, 0, 0, 1])
    assert ece(p, y, bins=2) == pytest.approx(0.5 * 0.3 + 0.5 * 0.2)
    assert ece(p, y, bins=1) == pytest.approx(0.05)


def test_ece_sees_miscalibration_at_small_rates() -> None:
    """Bins of equal width put all these rows into one bin, in which the two errors cancel."""
    p = np.repeat([0.0002, 0.0004], 5000)
    y = np.zeros(10_000, dtype=bool)
    y[:2], y[5000:5001] = True, True
    assert ece(p, y) == pytest.approx(0.5 * 0.0002 + 0.5 * 0.0002)


def test_gauc_equals_a_loop_over_users() -> None:
    rng = np.random.default_rng(4)
    user, y, w = rng.integers(0, 90, 701), rng.random(701) < 0.15, rng.random(701)
    scores = np.round(rng.random(701), 1)
    total, covered, users = 0.0, 0.0, 0
    for one in np.unique(user):
        mine = user == one
        if 0 < y[mine].sum() < mine.sum():
            total += w[mine].sum() * roc_auc_score(y[mine], scores[mine], sample_weight=w[mine])
            covered, users = covered + w[mine].sum(), users + 1
    found = gauc(scores, y, user, w)
    assert found.value == pytest.approx(total / covered)
    assert found.covered == pytest.approx(covered / w.sum())
    assert found.users == users


def test_gauc_of_one_user_is_the_auc() -> None:
    scores, y = np.array([0.8, 0.4, 0.4, 0.1, 0.9]), np.array([1, 1, 0, 0, 0])
    assert gauc(scores, y, np.full(5, -3)).value == auc(scores, y)


def test_error_to_truth_by_hand() -> None:
    error = error_to_truth(np.array([0.1, 0.4, 0.4]), np.array([0.2, 0.3, 0.4]))
    assert error["bias"] == pytest.approx(0)
    assert error["mean_absolute_error"] == pytest.approx(0.2 / 3)
    assert error["rmse"] == pytest.approx(np.sqrt(0.02 / 3))
    assert error["explained_variance"] == pytest.approx(1 - 0.02 / 0.02)


def test_t32_an_undefined_metric_is_a_reason_and_never_a_number() -> None:
    p, none, every = np.full(12, 0.5), np.zeros(12, dtype=bool), np.ones(12, dtype=bool)
    log_p = np.log(p)
    only_negatives = Undefined("only one class: 0 positives of 12 rows")
    assert auc(p, none) == only_negatives
    assert auc(p, every) == Undefined("only one class: 12 positives of 12 rows")
    assert normalised_entropy(log_p, log_p, none) == only_negatives
    assert pcoc(p, none) == Undefined("no positives in 12 rows")
    assert gauc(p, none, np.arange(12)).value == Undefined("no positives in 12 rows")
    lonely = gauc(p, np.arange(12) < 1, np.arange(12))
    assert lonely.value == Undefined("no user has both classes: 1 positives of 12 rows")
    assert lonely.covered == 0
    assert error_to_truth(p, p)["explained_variance"] == Undefined("the true value is the same on all rows")
    assert logloss(np.array([-np.inf]), np.array([0.0]), np.array([True])) == Undefined(
        "infinite: a row with probability 0 for what happened"
    )


def test_no_rows_is_undefined_everywhere() -> None:
    empty, labels = np.zeros(0), np.zeros(0, dtype=bool)
    values = [
        auc(empty, labels),
        logloss(empty, empty, labels),
        normalised_entropy(empty, empty, labels),
        pcoc(empty, labels),
        ece(empty, labels),
        brier(empty, labels),
        gauc(empty, labels, empty).value,
        *error_to_truth(empty, empty).values(),
    ]
    assert values == [Undefined("no rows")] * len(values)


def test_rows_of_weight_zero_do_not_count() -> None:
    assert auc(np.array([0.1, 0.9]), np.array([0, 1]), np.array([1.0, 0.0])) == Undefined(
        "only one class: 0 positives of 1 rows"
    )
    assert brier(np.array([0.1]), np.array([0]), np.array([0.0])) == Undefined("no rows")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[N\], received \(2,\) and \(3,\)"):
        auc(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="received NaN"):
        auc(np.array([0.1, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"weights should be finite and >= 0, received -1.0..2.0"):
        auc(np.array([0.1, 0.2]), np.array([0, 1]), np.array([-1.0, 2.0]))
    with pytest.raises(ValueError, match="weights should be finite"):
        auc(np.array([0.1, 0.2]), np.array([0, 1]), np.array([1.0, np.nan]))


def test_t25_each_metric_knows_its_direction() -> None:
    assert badness("auc", 0.8) < badness("auc", 0.7)
    assert badness("ne", 0.8) > badness("ne", 0.7)
    assert badness("pcoc", 0.9) < badness("pcoc", 1.2)
    assert badness("bias", -0.1) < badness("bias", 0.2)
    assert not set(HIGHER_IS_BETTER) & set(IDEAL)
    with pytest.raises(KeyError):
        badness("unknown", 1.0)
