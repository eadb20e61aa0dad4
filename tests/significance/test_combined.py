"""Seeds and rows together: numbers by hand, the two limits, laws, and the level on simulated A/A comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from funnelcast.metrics import Undefined
from funnelcast.significance.combined import combined_p

gap = st.floats(-0.1, 0.1).map(lambda x: round(x, 6))


def test_by_hand() -> None:
    """d = 1, 2, 6: mean 3, variance 7, so 7 / 3 for the mean; rows 1.5^2 = 2.25; V = 4.5833, t = 1.40130."""
    p = combined_p([1.0, 2.0, 6.0], 1.5)
    freedom = (7 / 3 + 2.25) ** 2 * 2 / (7 / 3) ** 2
    assert freedom == pytest.approx(7.71684, rel=1e-5)
    assert p == pytest.approx(2 * stats.t.sf(3 / math.sqrt(7 / 3 + 2.25), 7.716837), rel=1e-6)


def test_without_the_rows_it_is_the_t_test_and_without_the_seeds_the_normal_one() -> None:
    gaps = [0.01, 0.03, -0.01, 0.02]
    assert combined_p(gaps, 0.0) == pytest.approx(stats.ttest_1samp(gaps, 0.0).pvalue)
    assert combined_p([0.01, 0.01, 0.01], 0.005) == pytest.approx(math.erfc(2 / math.sqrt(2)))


@given(st.lists(gap, min_size=2, max_size=6), st.floats(1e-4, 0.05))
def test_neither_order_nor_sign_matters_and_rows_only_add_doubt(gaps: list[float], error: float) -> None:
    p = combined_p(gaps, error)
    assert isinstance(p, float) and 0.0 <= p <= 1.0
    assert combined_p([-each for each in reversed(gaps)], error) == pytest.approx(p)
    if len(set(gaps)) == 1:
        more = combined_p(gaps, 2 * error)
        assert isinstance(more, float) and more >= p


@pytest.mark.parametrize(
    ("gaps", "error", "reason"),
    [
        ([0.1], 0.1, "at least two"),
        ([], 0.1, "at least two"),
        ([0.1, 0.1], 0.0, "same for every seed and on every row"),
        ([0.1, 0.2], Undefined("a class with one row"), "a class with one row"),
    ],
)
def test_undefined(gaps: list[float], error: float | Undefined, reason: str) -> None:
    found = combined_p(gaps, error)
    assert isinstance(found, Undefined) and reason in found.reason


@pytest.mark.parametrize(("seeds_share", "seeds"), [(0.1, 3), (0.5, 5), (0.9, 5)])
def test_it_keeps_its_level_where_the_rows_alone_do_not(seeds_share: float, seeds: int) -> None:
    draw, repeats = np.random.default_rng(5), 4000
    rows = draw.normal(0.0, 1.0, repeats)  # the same rows for all seeds of a repeat
    spread = math.sqrt(seeds * seeds_share / (1 - seeds_share))  # of one seed, so that it makes up its share of V
    gaps = rows[:, None] + draw.normal(0.0, spread, (repeats, seeds))
    found = [combined_p(each.tolist(), 1.0) for each in gaps]
    rejected = sum(isinstance(p, float) and p < 0.05 for p in found) / repeats
    assert rejected < 0.05 + 4 * math.sqrt(0.05 * 0.95 / repeats)
    assert rejected > 0.02
    alone = np.mean([math.erfc(abs(each.mean()) / math.sqrt(2)) < 0.05 for each in gaps])
    assert alone > rejected
