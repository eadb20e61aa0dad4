"""Sample-ratio mismatch against hand numbers and its own error rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from funnelcast.errors import ConfigError
from funnelcast.experiment.sample_ratio import sample_ratio


def test_numbers_by_hand() -> None:
    # chi^2 = 2 * 300^2 / 50000 = 3.6 with one degree of freedom: p = erfc(sqrt(3.6 / 2))
    found = sample_ratio([50_300, 49_700], [0.5, 0.5])
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(1.8)))
    assert not found.mismatch


def test_three_arms_with_shares_of_their_own() -> None:
    # expected 500, 300, 200: chi^2 = 100/500 + 0 + 100/200 = 0.7 with two degrees of freedom: p = exp(-0.35)
    assert sample_ratio([510, 300, 190], [0.5, 0.3, 0.2]).p_value == pytest.approx(math.exp(-0.35))


def test_a_broken_assignment_is_found() -> None:
    assert sample_ratio([10_000, 9_000], [0.5, 0.5]).mismatch
    assert sample_ratio([100, 0], [0.5, 0.5]).mismatch


def test_a_sound_assignment_is_rarely_blamed() -> None:
    counts = np.random.default_rng(0).binomial(1000, 0.5, 2000)
    levels = np.array([sample_ratio([int(n), 1000 - int(n)], [0.5, 0.5]).p_value for n in counts])
    assert 0.03 < (levels < 0.05).mean() < 0.07


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ([1, 2], [0.5]),
        ([3], [1.0]),
        ([-1, 2], [0.5, 0.5]),
        ([0, 0], [0.5, 0.5]),
        ([1, 2], [0.5, 0.6]),
        ([1, 2], [1, 0]),
        ([1, 2], [1, math.nan]),
    ],
)
def test_impossible_numbers_are_refused(counts: list[int], shares: list[float]) -> None:
    with pytest.raises(ConfigError, match="shares > 0 with the sum 1, received"):
        sample_ratio(counts, shares)


def test_alarms_are_rare_on_fair_splits_and_sure_on_unfair_ones() -> None:
    draw, users = np.random.default_rng(1), 100_000

    def alarms(share: float, tests: int) -> float:
        counts = draw.binomial(users, share, tests).tolist()
        return float(np.mean([sample_ratio([n, users - n], [0.5, 0.5]).mismatch for n in counts]))

    assert alarms(0.5, 4000) <= 0.001 + 3 * math.sqrt(0.001 / 4000)
    assert alarms(50 / 102, 400) >= 0.99
