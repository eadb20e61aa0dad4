"""The smallest difference against statsmodels, and its sentence."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower

from funnelcast.significance.power import power_sentence, smallest_difference


def test_by_hand_and_against_statsmodels() -> None:
    assert smallest_difference(0.01) == pytest.approx(0.01 * (1.959964 + 0.841621), abs=1e-7)
    # One sample of mean d and standard error 1 (the other tail, which adds 1e-6, is counted by statsmodels alone).
    for power in (0.8, 0.95):
        found = smallest_difference(1.0, power=power)
        assert NormalIndPower(ddof=0).power(found, 1, 0.05, ratio=0) == pytest.approx(power, abs=1e-5)


def test_the_stated_power_is_reached_in_a_simulation() -> None:
    draws = np.random.default_rng(0).normal(smallest_difference(0.3), 0.3, 40_000)
    assert (np.abs(draws / 0.3) > 1.959964).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("difference", "shown"),
    [(0.01991, "0.020"), (0.0201, "0.021"), (0.02, "0.020"), (0.123, "0.13"), (0.00098, "0.00098")],
)
def test_the_sentence_rounds_up_to_two_digits(difference: float, shown: str) -> None:
    sentence = power_sentence("buy", "transition", 1234, difference)
    assert sentence == f"with 1,234 positives a difference under {shown} in buy's transition AUC cannot be seen"
