"""An experiment that runs: what is counted without outcomes, and the page of it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from funnelcast.errors import DataError
from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files
from funnelcast.experiment.live_page import live_html
from funnelcast.experiment.looks import Rules
from funnelcast.experiment.watch import watch

from .logs_on_disk import World, at, write_lines

LIVE: dict[str, Any] = {
    "variants": [
        {"variant": "control", "version": "aaaaaaaaaaaa", "share": "0.5", "rows": 12_345, "failures": 3},
        {"variant": "treatment", "version": "bbbbbbbbbbbb", "share": "0.5", "rows": 6, "failures": 0},
    ],
    "requests": {"500": 3, "200": 1234},
    "exposures": {"written": 99},
}


def asked(exposures: str, outcomes: str | None, **more: Any) -> dict[str, Any]:
    return {
        "experiment": "spring", "shares": {"control": 0.5, "treatment": 0.5}, "since": None, "exposures": exposures,
        "outcomes": outcomes, "base": None, "window_hours": None, "per": "exposure", "alpha": 0.05, "planned_lift": 0.3,
        "memory": "512MB", "now": "2026-03-06T10:00:00+00:00", "age_seconds": 60.0, "live": LIVE, **more,
    }  # fmt: skip


def test_what_is_counted_is_what_an_analysis_counts(tmp_path: Path) -> None:
    exposures, outcomes, _ = World(users=300).write(tmp_path)
    watched = watch(Files((exposures,), (), threads=1), Split({}))
    whole = analyse(Files((exposures,), (outcomes,), threads=1), Split({}), Attribution(), Rules())
    assert watched["assignment"] == whole["assignment"] and watched["service"] == whole["service"]
    assert watched["counts"]["exposures"] == whole["counts"]["exposures"]
    assert watched["days"] == [day for day in whole["days"] if day in watched["days"]] and len(watched["days"]) == 5
    for found, expected in zip(watched["variants"], whole["variants"], strict=True):
        assert [found[key] for key in ("variant", "share", "users", "exposures")] == [
            expected[key] for key in ("variant", "share", "users", "exposures")
        ]
        assert found["exposures_per_user"]["value"] == pytest.approx(expected["exposures_per_user"]["value"])


def test_users_who_came_before_a_time_are_left_out(tmp_path: Path) -> None:
    rows = [{"time": at(day), "user": user, "variant": variant} for day, user, variant in
            ((1, "a", "A"), (2, "b", "B"), (3, "a", "B"), (4, "c", "A"), (5, "d", "A"))]  # fmt: skip
    log = write_lines(tmp_path / "log.jsonl", [*rows, {"time": None, "user": "e", "variant": "A"}])
    everything = watch(Files((log,), (), threads=1), Split({}))
    assert everything["assignment"]["users"] == [2, 1] and everything["counts"]["exposures"]["users_crossed"] == 1
    found = watch(Files((log,), (), threads=1), Split({}, since=datetime(2026, 3, 3, tzinfo=UTC)))
    assert found["assignment"]["users"] == [2, 0] and found["variants"][0]["exposures"] == 2
    counts = found["counts"]["exposures"]
    assert [counts[key] for key in ("rows", "without_time", "users_before", "users_seen", "users_crossed")] == [
        6,
        1,
        2,
        2,
        0,
    ]
    with pytest.raises(DataError, match="the latest first exposure of a user is of 2026-03-05T"):
        watch(Files((log,), (), threads=1), Split({}, since=datetime(2026, 3, 6, tzinfo=UTC)))


def test_the_process_writes_the_page(tmp_path: Path) -> None:
    exposures, outcomes, _ = World(users=300).write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "funnelcast.experiment.live_page"],
        input=json.dumps(asked(exposures, outcomes)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    for part in ("<h1>spring</h1>", "As of 2026-03-06 10:00 UTC", "lift, always-valid", "12,345", "answers with 500"):
        assert part in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "No outcomes are read"),
        ({"shares": {"control": 0.9, "treatment": 0.1}}, "No verdict: users are not split as planned"),
        ({"shares": {"treatment": 1.0, "control": 0.0}}, "All users get treatment; there is nothing to compare"),
        ({"exposures": "nowhere/*.parquet"}, "No exposures have been written yet"),
        ({"outcomes": "nowhere/*.jsonl"}, "No outcomes are read"),
        ({"experiment": "summer"}, "experiment &#39;summer&#39; has no rows"),
        ({"since": "2026-03-03T00:00:00+00:00"}, "users who came after 2026-03-03 00:00 UTC"),
        ({"since": "2027-03-03T00:00:00+00:00"}, "should have users who were first seen at or after 2027-03-03"),
        ({"shares": {"control": 0.5, "new": 0.5}}, "No verdict: users are not split as planned"),
    ],
)
def test_it_says_what_there_is_and_what_is_missing(tmp_path: Path, more: dict[str, Any], text: str) -> None:
    exposures, _, _ = World(users=300).write(tmp_path)
    page = live_html(asked(exposures, None) | more)
    assert text in page and "rows scored" in page and f"{tmp_path}/" not in page


def test_names_are_only_text(tmp_path: Path) -> None:
    names = ("<script>1</script>", "treatment")
    exposures, _, _ = World(users=100, names=names).write(tmp_path)
    shares = dict.fromkeys(names, 0.5)
    live = {**LIVE, "variants": [{**LIVE["variants"][0], "variant": names[0]}]}
    page = live_html(asked(exposures, None, shares=shares, live=live))
    assert "<script>1" not in page and "&lt;script&gt;1" in page
