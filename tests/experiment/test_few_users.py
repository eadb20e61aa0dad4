"""The law that an experiment of few users, with a covariate or without, is measured or said to be undefined."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from funnelcast.experiment.analysis import build_analysis
from funnelcast.experiment.joined import Cells, Joined
from funnelcast.experiment.looks import Rules

COUNTS: dict[str, dict[str, Any]] = {
    "exposures": {"users_crossed": 0, "users_seen": 0, "unknown_variant": 0, "unknown_variants": []},
    "outcomes": {"rows": 0, "without_key_or_time": 0, "without_exposure": 0, "kept": 1},
}
User = tuple[int, int, float, float]  # arm, exposures, events, covariate
AMOUNTS = st.one_of(st.integers(0, 3).map(float), st.floats(1e-50, 1e50))
PASTS = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e50, 1e50), st.just(float("nan")))
USERS = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4), AMOUNTS, PASTS), min_size=2, max_size=8)
# The covariate takes all of B's rate of 1 away: what is left of it is rounding, 1.1e-16.
ROUNDING: list[User] = [(0, 1, 1.0, -0.8), (0, 1, 3.0, -0.2), (1, 1, 2.0, 0.1), (1, 1, 0.0, -0.1)]


def measured(users: list[User], rules: Rules) -> dict[str, Any]:
    arm, shown, events, past = (np.array(column) for column in zip(*users, strict=True))
    ids = np.arange(len(users))
    known = [Cells(ids, events.astype(float)[:, None])]
    joined = Joined(
        shares={"A": 0.5, "B": 0.5},
        steps=("click",),
        arm=arm,
        days=[date(2026, 3, 1)],
        exposed=[Cells(ids, shown.astype(float))],
        known=known,
        caused=known,
        newcomers=np.ones((1, 2), dtype=np.int64),
        covariate=past.astype(float),
        counts=COUNTS,
    )
    return build_analysis(joined, rules, {"crossed": "drop", "window_hours": None})


@given(USERS, st.sampled_from(["exposure", "user"]), st.sampled_from([1e-6, 0.05, 0.9]))
@example(ROUNDING, "exposure", 0.05)
def test_no_draw_raises_and_every_number_is_one(users: list[User], per: Any, planned: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funnelcast.experiment.looks.LEAST_USERS", 1)
        record = measured(users, Rules(planned_lift=planned, per=per))
    json.dumps(record, allow_nan=False)
    (lift,) = record["steps"][0]["lifts"]
    for found in (lift["fixed"], lift["without_covariate"], lift["sequence"]):
        if found["interval"] is None:
            assert found["reason"]
        else:
            assert -1 <= found["interval"][0] <= found["value"] + 1e-9 * (1 + abs(found["value"]))
            assert found["value"] <= found["interval"][1] + 1e-9 * (1 + abs(found["value"]))


def test_a_tiny_planned_lift_has_no_interval_and_no_crash() -> None:
    # s^2 / tau is some hundred times the largest logarithm of a number.
    draw = np.random.default_rng(0)
    users = [(number % 2, 1, float(draw.random() < 0.5), float("nan")) for number in range(200)]
    found = measured(users, Rules(planned_lift=1e-6))["steps"][0]["lifts"][0]["sequence"]
    assert (found["interval"], found["reason"]) == (None, "the interval is too wide to be a number")
    assert (found["p_value"], found["decision"]) == (1.0, "open")
