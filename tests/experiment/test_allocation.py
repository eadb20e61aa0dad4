"""Shares that change: stable, exact, and no user moves who need not."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.errors import ConfigError
from funnelcast.experiment.allocation import Allocation
from funnelcast.experiment.assignment import assign

NAMES = ("control", "one", "two", "three")
weights = st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(lambda values: sum(values) > 0)


def shares_of(values: list[int]) -> dict[str, float]:
    return {name: value / sum(values) for name, value in zip(NAMES, values, strict=True)}


def moved(old: Allocation, new: Allocation) -> float:
    """Width of the line that changed its variant."""
    borders = [list(accumulate((w for _, w in a.parts), initial=0.0)) for a in (old, new)]
    cuts = sorted({*borders[0], *borders[1]})
    width = 0.0
    for low, high in pairwise(cuts):
        middle = (low + high) / 2
        names = [
            a.parts[min(int(np.searchsorted(b, middle)) - 1, len(a.parts) - 1)][0]
            for a, b in zip((old, new), borders, strict=True)
        ]
        width += (high - low) * (names[0] != names[1])
    return width


@given(weights, weights, weights)
def test_a_change_moves_only_the_users_it_must(first: list[int], second: list[int], third: list[int]) -> None:
    start = Allocation.of(shares_of(first))
    for target in (shares_of(second), shares_of(third)):
        after = start.reweighed(target)
        assert after.shares == pytest.approx({name: share for name, share in target.items() if share > 1e-12})
        least = sum(abs(target[name] - start.shares.get(name, 0.0)) for name in NAMES) / 2
        assert moved(start, after) == pytest.approx(least, abs=1e-9)
        start = after


def test_users_leave_shrinking_variants_for_growing_ones() -> None:
    users = [f"user {number}" for number in range(20_000)]
    old = Allocation.of({"control": 0.2, "one": 0.5, "two": 0.3})
    new = old.reweighed({"control": 0.3, "one": 0.5, "two": 0.2})
    before, after = old.assign(users, "spring"), new.assign(users, "spring")
    moves = Counter(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])
    assert set(moves) == {("two", "control")}
    assert moves["two", "control"] / len(users) == pytest.approx(0.1, abs=0.01)
    # Borders that slide, as in `assign`, move twice as many.
    sliding = assign(users, "spring", (0.2, 0.5, 0.3)) != assign(users, "spring", (0.3, 0.5, 0.2))
    assert sliding.mean() > 1.8 * sum(moves.values()) / len(users)


def test_it_begins_as_the_plain_assignment() -> None:
    users = range(5000)
    numbers = assign(users, "spring", (0.2, 0.5, 0.3))
    names = np.array(["a", "b", "c"])[numbers].tolist()
    assert Allocation.of({"a": 0.2, "b": 0.5, "c": 0.3}).assign(users, "spring") == names


def test_golden_users_stay_where_they_are() -> None:
    allocation = Allocation.of({"control": 0.5, "treatment": 0.5}).reweighed({"control": 0.4, "treatment": 0.6})
    assert "".join(name[0] for name in allocation.assign(range(24), "golden")) == "tttccttttcttcttcttccctct"


def test_shares_are_exact_at_100_000_users() -> None:
    allocation = Allocation.of({"control": 0.9, "treatment": 0.1}).reweighed({"control": 0.5, "treatment": 0.5})
    for salt in ("spring", "autumn", "2026-03"):
        share = Counter(allocation.assign(range(100_000), salt))["treatment"] / 100_000
        assert abs(share - 0.5) <= 0.005


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.2, "b": -0.2}, {"a": 0.5, "b": 0.6}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="shares should be 0 or more with the sum 1"):
        Allocation.of(shares)
    with pytest.raises(ConfigError, match="shares should be 0 or more with the sum 1"):
        Allocation.of({"a": 1.0}).reweighed(shares)


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.2])
def test_what_is_no_share_is_named(share: float) -> None:
    words = f"shares should be 0 or more with the sum 1, received {share} for 'b'"
    with pytest.raises(ConfigError, match=words):
        Allocation.of({"a": 1.0, "b": share})
    with pytest.raises(ConfigError, match=words):
        Allocation.of({"a": 1.0}).reweighed({"a": 1.0, "b": share})
    with pytest.raises(ConfigError, match="widths of the parts"):
        Allocation((("a", 1.0), ("b", share)))


def test_parts_fill_the_line() -> None:
    with pytest.raises(ConfigError, match="widths of the parts"):
        Allocation((("a", 0.5), ("b", 0.4)))
