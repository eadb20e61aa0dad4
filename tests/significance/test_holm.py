"""Holm's adjustment against statsmodels, and its laws."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from funnelcast.significance.holm import holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    # 4 x 0.01, 3 x 0.02, 2 x 0.02 (held at 0.06), 1 x 0.5
    assert holm([0.02, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])


@settings(deadline=None)
@given(P_VALUES)
def test_agrees_with_statsmodels(p_values: list[float]) -> None:
    with mock.patch("gc.collect"):  # statsmodels collects garbage at every call, a seventh of a second each
        expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(P_VALUES)
def test_never_below_the_raw_value_nor_above_bonferroni_and_in_its_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for raw, p in zip(p_values, adjusted, strict=True):
        assert raw <= p <= min(1.0, len(p_values) * raw) + 1e-15
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


@settings(deadline=None)
@given(P_VALUES, st.integers(0, 29), st.floats(0, 1))
def test_a_smaller_p_value_raises_none(p_values: list[float], place: int, factor: float) -> None:
    place %= len(p_values)
    lowered = [p * factor if i == place else p for i, p in enumerate(p_values)]
    assert all(low <= high + 1e-15 for low, high in zip(holm(lowered), holm(p_values), strict=True))
