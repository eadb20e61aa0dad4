"""PSI by hand, its laws, and its size without drift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy

from funnelcast.drift import bin_counts, psi, psi_by_chance, psi_words

counts = arrays(np.int64, 6, elements=st.integers(0, 1000)).filter(lambda rows: bool(rows.any()))


def test_psi_by_hand() -> None:
    found = psi(np.array([20, 30, 50]), np.array([6, 3, 3]))
    # shares .2 .3 .5 and .5 .25 .25
    expected = 0.3 * math.log(2.5) - 0.05 * math.log(0.25 / 0.3) - 0.25 * math.log(0.5)
    assert found == pytest.approx(expected)


def test_an_empty_bin_counts_half_a_row() -> None:
    e, a = np.array([10, 10]) / 20, np.array([4, 0.5]) / 4.5
    assert psi(np.array([10, 10]), np.array([4, 0])) == pytest.approx(((a - e) * np.log(a / e)).sum())
    assert psi(np.array([0, 3]), np.array([0, 3])) == 0.0


@given(counts, counts)
def test_psi_is_a_symmetric_divergence(one: Any, other: Any) -> None:
    value = psi(one, other)
    assert value >= -1e-12
    assert value == pytest.approx(psi(other, one))
    e, a = np.maximum(one, 0.5), np.maximum(other, 0.5)
    assert value == pytest.approx(entropy(a, e) + entropy(e, a), abs=1e-12)
    assert psi(one, one) == 0.0


def test_without_drift_psi_is_as_large_as_said() -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(300):
        pair = [draw.multinomial(rows, [0.1, 0.2, 0.3, 0.25, 0.15]) for rows in (2000, 500)]
        found.append(psi(*pair))
    assert np.mean(found) == pytest.approx(psi_by_chance(5, 2000, 500), rel=0.15)


def test_the_usual_words() -> None:
    words = [psi_words(value) for value in (0.0, 0.0999, 0.1, 0.2499, 0.25, 3.0)]
    assert words == ["stable", "stable", "moderate shift", "moderate shift", "large shift", "large shift"]


def test_bins_hold_equal_shares_and_do_not_split_ties() -> None:
    first, second = bin_counts(np.arange(100), np.array([-5, 0, 55, 99, 1000]))
    assert first.tolist() == [10] * 10
    assert second.tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    tied, other = bin_counts(np.array([1] * 8 + [2] * 2), np.array([1, 2, 2]))
    assert (tied.tolist(), other.tolist()) == ([8, 2], [1, 2])
    same, moved = bin_counts(np.full(7, 3), np.array([3, 4]))
    assert (same.tolist(), moved.tolist()) == ([7], [2])


@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 9)), st.integers(1, 12))
def test_every_bin_has_rows_of_the_reference(numbers: Any, bins: int) -> None:
    first, second = bin_counts(numbers, numbers[::-1], bins)
    assert first.sum() == len(numbers) and first.min() >= 1 and len(first) <= bins
    assert first.tolist() == second.tolist()
