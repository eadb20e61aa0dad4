"""A lift that changes while it is watched: who decided, what holds now, and what is said of both.

All users come once. Day 1 has 1,000 of each arm with 200 and 300 clicks, a lift of +50 %, and by hand
s^2 = (0.8 / 200 + 0.7 / 300) 1000 / 999 = 0.0063397, s = 0.079622, z = log(1.5) / s = 5.0924. With tau = 0.193937 of a
planned lift of 0.3, x = (tau / s)^2 = 5.9328, p = sqrt(6.9328) exp(-5.0924^2 * 5.9328 / 13.8656) = 4.0e-5, and the
interval is log(1.5) -+ s sqrt((1 + 1/x) log(6.9328 / 0.0025)) = 0.4055 -+ 0.2424, or +17.72 % to +91.13 %.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from funnelcast.experiment.analysis import build_analysis
from funnelcast.experiment.joined import Cells, Joined
from funnelcast.experiment.looks import Rules
from funnelcast.experiment.verdict import verdict

SEEN = {"users_crossed": 0, "users_seen": 0, "unknown_variant": 0, "unknown_variants": []}
COUNTS: dict[str, dict[str, Any]] = {
    "exposures": SEEN,
    "outcomes": {"rows": 0, "without_key_or_time": 0, "without_exposure": 0, "kept": 1},
}
FIRST = (1000, 200, 300)


def watched(*days: tuple[int, int, int]) -> dict[str, Any]:
    """Analyse days of (users an arm, clicks of A, clicks of B)."""
    arm: list[int] = []
    exposed, known = [], []
    for users, *clicks in days:
        start, events = len(arm), np.zeros((2 * users, 1))
        for number, clicked in enumerate(clicks):
            events[number * users : number * users + clicked] = 1
        arm += [0] * users + [1] * users
        ids = np.arange(start, len(arm))
        exposed.append(Cells(ids, np.ones(2 * users)))
        known.append(Cells(ids, events))
    joined = Joined(
        shares={"A": 0.5, "B": 0.5},
        steps=("click",),
        arm=np.array(arm),
        days=[date(2026, 3, 1) + timedelta(days=number) for number in range(len(days))],
        exposed=exposed,
        known=known,
        caused=known,
        newcomers=np.ones((len(days), 2), dtype=np.int64),
        covariate=None,
        counts=COUNTS,
    )
    return build_analysis(joined, Rules(planned_lift=0.3), {"crossed": "drop", "window_hours": None})


def said(record: dict[str, Any]) -> dict[str, str]:
    return {sentence["about"]: sentence["text"] for sentence in verdict(record)["sentences"]}


def sequence_of(record: dict[str, Any]) -> dict[str, Any]:
    found = record["steps"][0]["lifts"][0]["sequence"]
    assert isinstance(found, dict)
    return found


def test_the_day_of_the_least_p_value_decides_by_hand() -> None:
    found = sequence_of(watched(FIRST))
    assert found["p_value"] == pytest.approx(4.0e-5, rel=0.01)
    assert found["interval"] == pytest.approx([0.1772, 0.9113], abs=1e-4)
    assert (found["decision"], found["changed"]) == ("better", False)
    assert found["decided_by"] == {"date": "2026-03-01", "value": found["value"], "interval": found["interval"]}


def test_a_lift_that_turns_is_not_decided_by_its_last_sign() -> None:
    # 3,000 users of each arm with 1,000 and 950 clicks: -5 %, s^2 = (2/3 / 1000 + 41/60 / 950) 3000 / 2999 = 0.0013864.
    record = watched(FIRST, (2000, 800, 650))
    found, words = sequence_of(record), said(record)
    assert found["value"] == pytest.approx(-0.05) and found["interval"] == pytest.approx([-0.1539, 0.0666], abs=1e-4)
    assert (found["decision"], found["changed"]) == ("better", True)
    assert found["decided_by"]["date"] == "2026-03-01"
    assert found["decided_by"]["value"] == pytest.approx(0.5)
    assert words["click"] == (
        "B was better than A up to 2026-03-01: +50.00 % (always-valid 95 % interval +17.72 % to +91.13 %; p < 0.0001 "
        "after Holm). Not so now: it is -5.00 % (always-valid 95 % interval -15.39 % to +6.66 %). No one lift lies in "
        "the intervals of all days: it changed over time, see the daily rates."
    )
    assert words["what now"].startswith("Every step is decided, but a lift does not look the same on all days")


def test_a_lift_that_fades_leaves_the_decision_in_doubt() -> None:
    # 2,000 users with 500 and 540 clicks: +8 %, from -8.23 % to +27.11 %, which shares +17.72 % to +27.11 % with day 1.
    record = watched(FIRST, (1000, 300, 240))
    found, words = sequence_of(record), said(record)
    assert (found["decision"], found["changed"]) == ("better", False)
    assert (
        "Not so now: it is +8.00 % (always-valid 95 % interval -8.23 % to +27.11 %). If the lift is the same"
        in (words["click"])
    )
    assert words["what now"].startswith("Every step is decided, but a lift does not look the same")


def test_a_stronger_day_on_the_other_side_decides_and_the_change_is_said() -> None:
    # 11,000 users with 4,200 and 3,300 clicks: -21.43 %, which shares nothing with day 1.
    record = watched(FIRST, (10_000, 4000, 3000))
    found, words = sequence_of(record), said(record)
    assert (found["decision"], found["changed"], found["decided_by"]["date"]) == ("worse", True, "2026-03-02")
    assert words["click"].startswith("B is worse than A: -21.43 % (")
    assert words["click"].endswith("it changed over time, see the daily rates.")


def test_a_lift_that_stays_is_said_plainly() -> None:
    record = watched(FIRST, FIRST)
    found, words = sequence_of(record), said(record)
    assert (found["decision"], found["changed"], found["decided_by"]["date"]) == ("better", False, "2026-03-02")
    assert words["click"].startswith("B is better than A: +50.00 % (") and words["click"].endswith("after Holm).")
    assert words["what now"] == "Every step is decided; the test may be stopped."


def test_a_decision_stays_where_the_last_look_has_no_interval() -> None:
    # As CUPED may leave it, whose adjusted rate can fall to 0.
    record = watched(FIRST)
    sequence_of(record).update({"value": None, "interval": None, "reason": "an arm has no events"})
    words = said(record)["click"]
    assert words.startswith("B was better than A up to 2026-03-01: +50.00 % (")
    assert "Not so now: an arm has no events. If the lift is the same" in words


def test_nothing_is_decided_without_a_decision() -> None:
    found = sequence_of(watched((1000, 200, 205)))
    assert (found["decision"], found["decided_by"], found["changed"]) == ("open", None, False)
