"""The verdict in words."""

from __future__ import annotations

import math
from typing import Any

from funnelcast.leaderboard import summary
from funnelcast.report.words import sampling_error, verdict


def board(positives: int, **aucs: list[float | None]) -> dict[str, Any]:
    rows = [{"experiment": n, "steps": [{"reach": {"auc": summary(values)}}]} for n, values in aucs.items()]
    return {"funnel": [{"name": "buy", "positives": positives}], "rows": rows}


def sentence(positives: int, **aucs: list[float | None]) -> str:
    ((name, text),) = verdict(board(positives, **aucs))
    assert name == "buy"
    return text


def test_a_lead_beyond_the_spread_is_said_to_exceed_it() -> None:
    text = sentence(1_000_000, apem=[0.72, 0.722], ple=[0.70, 0.702])
    assert text == (
        "apem has a mean reach AUC of 0.7210, 0.0200 ahead of ple. "
        "The lead exceeds the spread over seeds (standard deviation 0.0014)."
    )


def test_a_lead_within_the_spread_is_not_called_a_win() -> None:
    text = sentence(1_000_000, ple=[0.69, 0.71], apem=[0.703, 0.705])
    assert text.startswith("apem has a mean reach AUC of 0.7040, 0.0040 ahead of ple. The lead is within the spread")
    assert "(standard deviation 0.0141), so other seeds may turn the order." in text


def test_few_positives_are_named_where_they_blur_the_lead() -> None:
    assert "With 88 positives, one AUC on this split is known to about ±0.02" in sentence(
        88, apem=[0.66, 0.66], ple=[0.65, 0.65]
    )
    assert "positives" not in sentence(88_000_000, apem=[0.66, 0.66], ple=[0.65, 0.65])


def test_one_seed_has_no_spread() -> None:
    assert "With one seed each, the spread over seeds is not known." in sentence(10**9, apem=[0.7], ple=[0.6])


def test_a_lead_below_the_printed_digits_is_level() -> None:
    text = sentence(10**9, apem=[0.70001, 0.7], ple=[0.7, 0.7])
    assert text.startswith("apem has a mean reach AUC of 0.7000 and is level with ple.")


def test_one_experiment_has_nothing_to_compare_with() -> None:
    assert "there is no other experiment" in sentence(100, apem=[0.7], ple=[None])


def test_an_undefined_step_has_no_leader() -> None:
    assert sentence(0, apem=[None], ple=[None]).startswith("Reach AUC is undefined in every run")


def test_sampling_error_by_hand() -> None:
    # A = 1/2: A / (2 - A) - A^2 = 1/3 - 1/4 = 1/12.
    assert math.isclose(sampling_error(0.5, 3), 1 / 6)
    assert sampling_error(1.0, 5) == 0
