"""What is said of an experiment: decisions, and what a reader has to mind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.analysis_page import to_markdown
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files
from funnelcast.experiment.looks import Rules
from funnelcast.experiment.verdict import verdict

from .logs_on_disk import World, at, write_lines


def said(record: dict[str, Any], about: str) -> list[str]:
    return [sentence["text"] for sentence in verdict(record)["sentences"] if sentence["about"] == about]


def measured(folder: Path, exposures: list[Any], outcomes: list[Any], split: Split) -> dict[str, Any]:
    logs = (write_lines(folder / "e.jsonl", exposures),), (write_lines(folder / "o.jsonl", outcomes),)
    return analyse(Files(*logs, threads=1), split, Attribution(), Rules())


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    exposures, outcomes, _ = World(users=1500, lift=0.4).write(tmp_path_factory.mktemp("logs"))
    return analyse(Files((exposures,), (outcomes,), threads=1), Split({}), Attribution(), Rules(planned_lift=0.3))


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        (("better", "worse"), "Every step is decided; the test may be stopped."),
        (("open", "open"), "Nothing is decided; the test may go on"),
        (("open", "better"), "Some steps are decided and stay so"),
    ],
)
def test_the_advice_follows_the_decisions(record: dict[str, Any], decisions: tuple[str, str], words: str) -> None:
    for step, decision in zip(record["steps"], decisions, strict=True):
        low, high = {"better": (0.1, 0.3), "worse": (-0.3, -0.1), "open": (-0.1, 0.1)}[decision]
        step["lifts"][0]["sequence"] |= {"decision": decision, "value": (low + high) / 2, "interval": [low, high]}
    (advice,) = said(record, "what now")
    assert advice.startswith(words)
    (click,) = said(record, "click")
    shown = {"open": "No difference of treatment from control is shown so far", "better": "treatment is better than"}
    assert click.startswith(shown.get(decisions[0], f"treatment is {decisions[0]} than"))


def test_rows_that_were_left_out_in_numbers_are_said(tmp_path: Path) -> None:
    exposures = [{"time": at(1), "user": f"u{i}", "variant": "AB"[i % 2]} for i in range(40)]
    exposures += [{"time": at(2), "user": "u1", "variant": "A"}, {"time": at(2), "user": "z", "variant": "C\u202e"}]
    outcomes = [{"time": at(2), "user": user, "click": 1} for user in ("u2", "nobody")]
    found = measured(tmp_path, exposures, outcomes, Split({"A": 0.5, "B": 0.5}))
    assert said(found, "mind") == [
        "Of 40 users 1 saw several variants and were dropped.",
        "1 exposures are of variants that are not in the plan: \u2068C\u202e\u2069.",
        "Of 2 outcomes 1 are of users without an exposure in the analysis.",
    ]
    first = measured(tmp_path, exposures, outcomes, Split({"A": 0.5, "B": 0.5}, crossed="first"))
    assert said(first, "mind")[0] == "Of 40 users 1 saw several variants and count for their first one."


def test_outcomes_without_the_key_of_the_join_are_said(tmp_path: Path) -> None:
    exposures = [
        {"time": at(1), "user": f"u{i}", "variant": "AB"[i % 2], "request_id": f"r{i}" if i < 4 else None}
        for i in range(10)
    ]
    outcomes = [row | {"time": at(2), "click": 1} for row in exposures]
    found = measured(tmp_path, exposures, outcomes, Split({}))
    assert found["counts"]["outcomes"]["joined_by"] == "request_id"
    words = "Of 10 outcomes 6 have no {} and are left out; --join user goes by user and time, where they have both."
    assert said(found, "mind") == [words.format("request_id")]
    found["window_hours"] = 24.0
    assert said(found, "mind") == [words.format("request_id or no time")]
    outcomes = [row | {"user": None if i < 2 else row["user"]} for i, row in enumerate(outcomes)]
    logs = (write_lines(tmp_path / "e.jsonl", exposures),), (write_lines(tmp_path / "o.jsonl", outcomes),)
    by_user = analyse(Files(*logs, threads=1), Split({}), Attribution(join="user"), Rules())
    assert said(by_user, "mind") == ["Of 10 outcomes 2 have no user or no time and are left out."]


def test_no_outcome_at_all_is_said(tmp_path: Path) -> None:
    exposures = [{"time": at(5), "user": user, "variant": "AB"[i]} for i, user in enumerate("ab")]
    found = measured(tmp_path, exposures, [{"time": at(1), "user": "a", "click": 1}], Split({}))
    assert said(found, "mind") == ["No outcome is left: check the time zones, the ids and the window."]


def test_three_variants_stand_in_one_table(tmp_path: Path) -> None:
    exposures = [{"time": at(1), "user": f"u{i}", "variant": "ABC"[i % 3]} for i in range(30)]
    outcomes = [{"time": at(2), "user": f"u{i}", "click": 1} for i in range(0, 30, 2)]
    text = to_markdown(measured(tmp_path, exposures, outcomes, Split({}, base="B")))
    assert "| per exposure | B | variant | its rate |" in text
    assert text.count("| click | ") == 2
