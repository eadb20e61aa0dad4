"""The verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from funnelcast.leaderboard import summary
from funnelcast.report.words import sampling_error, verdict


def board(positives: int, **aucs: Sequence[float | None]) -> dict[str, Any]:
    rows = [
        {"experiment": name, "steps": [{"reach": {"auc": {**summary(values), "interval": None}}}]}
        for name, values in aucs.items()
    ]
    return {"funnel": [{"name": "buy", "positives": positives}], "rows": rows}


def sentence(positives: int, **aucs: Sequence[float | None]) -> str:
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


def with_test(row: dict[str, Any], **test: Any) -> None:
    nothing = {"t_p": None, "wilcoxon_p": None, "delong_p": None, "holm_p": None, "interval": None}
    row["steps"][0]["reach"]["auc"]["test"] = {**nothing, **test}


def test_the_test_of_the_leader_is_quoted_with_its_corrected_p() -> None:
    record = board(10**9, ple=[0.70, 0.70], apem=[0.72, 0.72])
    record["rows"][1]["steps"][0]["reach"]["auc"]["interval"] = [0.71, 0.73]
    with_test(record["rows"][1], against="ple", difference=0.02, interval=[0.015, 0.025], delong_p=0.001, holm_p=0.0034)
    ((_, text),) = verdict(record)
    assert "apem has a mean reach AUC of 0.7200 (interval 0.7100 to 0.7300), 0.0200 ahead of ple." in text
    assert (
        "Against ple the difference is +0.0200, interval +0.0150 to +0.0250; p = 0.0034 after Holm's correction: "
        "significant at 0.05." in text
    )


def test_a_test_without_a_finding_is_not_called_significant() -> None:
    record = board(10**9, ple=[0.70], apem=[0.72])
    record["statistics"] = {"alpha": 0.01}
    with_test(record["rows"][1], against="ple", difference=0.02, delong_p=0.03)
    ((_, text),) = verdict(record)
    assert "the difference is +0.0200; p = 0.0300 (DeLong): not significant at 0.01." in text


def test_a_leading_baseline_is_judged_by_the_tests_of_the_others() -> None:
    record = board(10**9, single=[0.74], ple=[0.70], apem=[0.72])
    with_test(record["rows"][1], against="single", difference=-0.04, holm_p=0.001)
    with_test(record["rows"][2], against="single", difference=-0.02, holm_p=0.2)
    ((_, text),) = verdict(record)
    assert "Of 2 tests against it, 1 find a difference that is significant at 0.05." in text


def test_the_power_analysis_takes_the_place_of_the_rough_error() -> None:
    record = board(88, apem=[0.66], ple=[0.65])
    record["power"] = [
        {"step": "buy", "space": "reach", "sentence": "with 88 positives a difference under 0.05 cannot be seen"}
    ]
    ((_, text),) = verdict(record)
    assert "With 88 positives a difference under 0.05 cannot be seen." in text
    assert "one standard error" not in text


def test_calibration_is_said_in_words() -> None:
    record = board(10**9, apem=[0.7, 0.7], ple=[0.6, 0.6])
    record["rows"][0]["steps"][0]["reach"]["pcoc"] = {"mean": 0.88}
    before, after = ({"reach": {"ece": value}} for value in (0.02, 0.005))
    fit = {"method": "platt", "steps": [{"before": before, "after": after}]}
    ((_, text),) = verdict(record, {"apem": fit, "ple": {}})
    assert "It predicts 12.0 % fewer events than happen (PCOC 0.880)." in text
    assert "Calibration (platt) takes its ECE from 0.020000 to 0.005000." in text
    record["rows"][0]["steps"][0]["reach"]["pcoc"] = {"mean": 1.004}
    ((_, text),) = verdict(record)
    assert text.endswith("It predicts as many events as happen (PCOC 1.004).")


def test_a_name_from_right_to_left_does_not_turn_the_sentence() -> None:
    ((_, text),) = verdict(board(10**9, **{"\u202eevil": [0.7], "\u05d0": [0.6]}))
    assert text.startswith("\u2068\u202eevil\u2069 has a mean reach AUC of 0.7000, 0.1000 ahead of \u2068\u05d0\u2069.")
