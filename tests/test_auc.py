"""The exact AUC on every path that a dtype, a sign or a weight can take, against the definition over pairs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from funnelcast.auc import _keys, exact_auc, ordered_integers

Array = NDArray[Any]
TINY = float(np.finfo(np.float32).tiny)


def over_pairs(scores: Array, labels: Array, weights: Array | None = None) -> float:
    """The definition: every positive against every negative."""
    w = np.ones(len(scores)) if weights is None else weights
    won = (scores[labels][:, None] > scores[~labels]) + 0.5 * (scores[labels][:, None] == scores[~labels])
    mass = w[labels][:, None] * w[~labels]
    return float((won * mass).sum() / mass.sum())


@st.composite
def rows(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Scores of a random type from few or many values, labels of both classes, weights that fit 32 bits or do not."""
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    values = draw(
        st.sampled_from(
            [
                st.sampled_from([-np.inf, -1.5, -0.0, 0.0, TINY, 1.0, 3e4, np.inf]),
                st.floats(0, 1, width=16),
                st.floats(-50, 0, width=16),
                st.floats(allow_nan=False, width=16),
            ]
        )
    )
    n = draw(st.integers(2, 30))
    scores = np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    assume(0 < labels.sum() < n)
    weight = st.sampled_from([0.1, 0.25, 1.0, 3.0, 2.0**-140])  # 0.1 needs 64 bits, the last one is subnormal in 32
    weights = np.array(draw(st.lists(weight, min_size=n, max_size=n)))
    return scores, labels, weights


@settings(deadline=None, max_examples=300)
@given(rows())
def test_the_auc_is_the_share_of_pairs_won(data: tuple[Array, Array, Array]) -> None:
    scores, labels, weights = data
    assert exact_auc(scores, labels) == pytest.approx(over_pairs(scores, labels), abs=1e-15)
    assert exact_auc(scores, labels, weights) == pytest.approx(over_pairs(scores, labels, weights), abs=1e-12)


def test_a_weight_beyond_32_bits_does_not_overflow() -> None:
    scores, labels = np.array([0.1, 0.2, 0.3], dtype=np.float32), np.array([False, True, False])
    assert exact_auc(scores, labels, np.array([3e100, 1e100, 1e100])) == pytest.approx(0.75)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ordered_integers_keep_order_and_equality(dtype: type[np.floating[Any]]) -> None:
    information = np.finfo(dtype)
    rising = [-np.inf, information.min, -1.0, -information.tiny, -information.smallest_subnormal]
    rising += [0.0, information.smallest_subnormal, information.tiny, 1.0, np.nextafter(dtype(1), dtype(2)), np.inf]
    numbers = ordered_integers(np.array(rising, dtype=dtype)).tolist()
    assert all(low < high for low, high in pairwise(numbers))
    assert len(set(ordered_integers(np.array([0.0, -0.0], dtype=dtype)).tolist())) == 1


@pytest.mark.parametrize(
    ("scores", "fits"),
    [
        (np.array([0.0, 1e-30, 1.0, np.inf], np.float32), True),
        (np.array([-np.inf, -80.0, -0.0], np.float64), True),
        (np.array([-1.9, 1.9], np.float32), True),
        (np.array([-2.5, 2.5], np.float32), False),
        (np.array([-2.5, 2.5], np.float64), False),
        (np.array([1, 2]), False),
    ],
)
def test_scores_of_one_sign_leave_a_bit_for_the_label(scores: Array, fits: bool) -> None:
    assert (_keys(scores, scores > 0) is not None) == fits


@pytest.mark.parametrize("kind", ["log-probabilities", "log-odds", "whole numbers", "booleans"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.01, 0.5, 0.97])
@pytest.mark.parametrize("places", [1, 7])
def test_the_auc_equals_scikit_learn(kind: str, dtype: type[np.floating[Any]], rate: float, places: int) -> None:
    rng = np.random.default_rng(8)
    labels = rng.random(4001) < rate
    scores = np.round(rng.normal(labels * 0.5), places).astype(dtype)
    if kind == "log-probabilities":
        scores = -np.log1p(np.exp(-scores))
    elif kind == "whole numbers":
        scores = (scores * 1000).astype(np.int64)
    elif kind == "booleans":
        scores = scores > 0
    for weights in (None, rng.integers(1, 5, 4001) / 2, rng.random(4001) + 1e-3):
        expected = roc_auc_score(labels, scores, sample_weight=weights)
        assert exact_auc(scores, labels, weights) == pytest.approx(expected, abs=1e-12)


def test_sorting_by_keys_leaves_the_scores_alone() -> None:
    scores = np.array([0.4, 0.1, 0.4], dtype=np.float32)
    exact_auc(scores, np.array([True, False, False]))
    assert scores.tolist() == np.array([0.4, 0.1, 0.4], dtype=np.float32).tolist()
