"""What a ranking aims at, and what it shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.errors import ConfigError
from funnelcast.experiment.ranking import aim_at, top

STEPS = ("click", "cart", "order")


def test_the_last_step_is_the_aim_unless_another_is_named() -> None:
    assert aim_at(STEPS, None, {}).weights == (0, 0, 1)
    assert aim_at(STEPS, "cart", {}).weights == (0, 1, 0)
    assert aim_at(("click",), None, {}).weights == (1,)


def test_values_make_an_expected_value() -> None:
    aim = aim_at(STEPS, None, {"order": 20.0, "click": 0.5})
    assert aim.weights == (0.5, 0.0, 20.0)
    assert not aim.of_one_step


@pytest.mark.parametrize(
    ("rank_by", "values", "message"),
    [
        ("ordr", {}, "unknown step 'ordr'; did you mean 'order'"),
        (None, {"buy": 1.0}, "unknown step 'buy'; known: cart, click, order"),
        ("click", {"order": 1.0}, "received both"),
        (None, {"order": -1.0}, "numbers >= 0"),
        (None, {"order": float("nan")}, "numbers >= 0"),
        (None, {"order": 0.0}, "at least one above 0"),
    ],
)
def test_wrong_aims_are_refused(rank_by: str | None, values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aim_at(STEPS, rank_by, values)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.data())
def test_no_other_choice_is_worth_more(seed: int, visits: int, candidates: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, candidates))
    worth = np.round(np.random.default_rng(seed).random((visits, candidates)), 1)  # with ties
    chosen = top(worth, k)
    assert chosen.shape == (visits, k)
    assert all(len(set(row)) == k for row in chosen.tolist())
    best = np.sort(worth, axis=1)[:, candidates - k :].sum(axis=1)
    np.testing.assert_allclose(np.take_along_axis(worth, chosen, axis=1).sum(axis=1), best)
