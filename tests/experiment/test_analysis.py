"""An experiment as a whole: numbers by hand, decisions at their level, and a broken split that voids them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from funnelcast.errors import ConfigError
from funnelcast.experiment.analysis import analyse, build_analysis
from funnelcast.experiment.analysis_report import analysis_html
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.covariate import Covariate
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Cells, Files, Joined
from funnelcast.experiment.lift import Lift, relative_lift
from funnelcast.experiment.looks import LEAST_USERS, Rules
from funnelcast.experiment.ratio import ratio
from funnelcast.experiment.sequence import always_valid_p, radius
from funnelcast.significance.holm import holm

from .logs_on_disk import World

OPTIONS: dict[str, Any] = {"crossed": "drop", "window_hours": None}
NOTHING = {"users_crossed": 0, "users_seen": 0, "unknown_variant": 0, "unknown_variants": []}
COUNTS: dict[str, dict[str, Any]] = {
    "exposures": NOTHING,
    "outcomes": {"rows": 0, "without_key_or_time": 0, "without_exposure": 0, "kept": 1},
}


def joined(
    arm: list[int],
    exposed: Sequence[Mapping[int, int]],
    events: Sequence[Mapping[int, tuple[int, ...]]],
    names: tuple[str, ...] = ("A", "B"),
    covariate: NDArray[np.float64] | None = None,
) -> Joined:
    """An experiment of day -> user -> count; outcomes happen on the day of their exposure."""
    n_steps = len(next(iter(next(day for day in events if day).values())))

    def cells(day: Mapping[int, Any], *shape: int) -> Cells:
        return Cells(np.array(list(day), dtype=np.int64), np.array(list(day.values()), float).reshape(-1, *shape))

    known = [cells(day, n_steps) for day in events]
    return Joined(
        shares={name: 1 / len(names) for name in names},
        steps=tuple(f"step {number}" for number in range(n_steps)),
        arm=np.array(arm),
        days=[date(2026, 3, 1) + timedelta(days=number) for number in range(len(exposed))],
        exposed=[cells(day) for day in exposed],
        known=known,
        caused=known,
        newcomers=np.ones((len(exposed), len(names)), dtype=np.int64),
        covariate=covariate,
        counts=COUNTS,
    )


def drawn(seed: int, users: int = 400, days: int = 8, effect: float = 0.0, split: float = 0.5) -> Joined:
    """An experiment of users who come back, with two steps."""
    draw = np.random.default_rng(seed)
    arm = (draw.random(users) < split).astype(int)
    taste = draw.beta(6, 14, users) * (1 + effect * arm)
    exposed, events = [], []
    for _ in range(days):
        shown = draw.poisson(0.7, users)
        click = draw.binomial(shown, np.minimum(taste, 1))
        buy = draw.binomial(click, 0.4)
        exposed.append({u: int(shown[u]) for u in range(users) if shown[u]})
        events.append({u: (int(click[u]), int(buy[u])) for u in range(users) if click[u]})
    return joined(arm.tolist(), exposed, events)


def test_numbers_by_hand() -> None:
    found = build_analysis(
        joined([0, 0, 1, 1], [{0: 10, 2: 10}, {1: 10, 3: 10}], [{0: (2,), 2: (4,)}, {1: (4,), 3: (8,)}]),
        Rules(),
        OPTIONS,
    )
    (step,) = found["steps"]
    assert step["rates"]["A"]["value"] == pytest.approx(6 / 20)
    assert step["rates"]["B"]["value"] == pytest.approx(12 / 20)
    (lift,) = step["lifts"]
    assert lift["fixed"]["value"] == pytest.approx(1.0)
    # log(2) / sqrt(2/9), see test_lift
    assert lift["fixed"]["p_value"] == pytest.approx(math.erfc(math.log(2) / math.sqrt(2 / 9) / math.sqrt(2)))
    assert lift["sequence"]["reason"] == f"2 users with an event in an arm, needed are {LEAST_USERS}"
    assert (lift["sequence"]["p_value"], lift["sequence"]["decision"]) == (1.0, "open")
    assert [day["rates"]["B"]["value"] for day in step["daily"]] == [0.4, 0.8]
    assert [entry["exposures"] for entry in found["variants"]] == [20, 20]
    by_user = build_analysis(
        joined([0, 0, 1, 1], [{0: 10, 2: 10}, {1: 10, 3: 10}], [{0: (2,), 2: (4,)}, {1: (4,), 3: (8,)}]),
        Rules(per="user"),
        OPTIONS,
    )
    assert by_user["steps"][0]["rates"]["B"]["value"] == pytest.approx(12 / 2)


def test_every_look_is_the_sequence_of_all_that_was_known() -> None:
    world, rules = drawn(3, effect=0.3), Rules(planned_lift=0.2)
    found = build_analysis(world, rules, OPTIONS)
    exposed, events = np.zeros(400), np.zeros(400)
    least = 1.0
    for day, look in enumerate(found["steps"][0]["looks"]):
        exposed[world.exposed[day].user] += world.exposed[day].count
        events[world.known[day].user] += world.known[day].count[:, 0]
        arms = [ratio(events * (world.arm == arm), exposed * (world.arm == arm)) for arm in (0, 1)]
        lift = relative_lift(*arms)
        assert isinstance(lift, Lift)
        half = radius(lift.log_error, rules.spread, rules.alpha)
        low, high = look["lifts"]["B"]["interval"]
        assert math.log1p(low) == pytest.approx(math.log1p(lift.value) - half)
        assert math.log1p(high) == pytest.approx(math.log1p(lift.value) + half)
        least = min(least, always_valid_p(math.log1p(lift.value), lift.log_error, rules.spread))
        assert look["lifts"]["B"]["p_value"] == pytest.approx(least)


def test_decisions_are_holms() -> None:
    found = build_analysis(drawn(1, users=1500, effect=0.5), Rules(planned_lift=0.3), OPTIONS)
    sequences = [step["lifts"][0]["sequence"] for step in found["steps"]]
    assert [s["holm_p"] for s in sequences] == holm([s["p_value"] for s in sequences])
    assert [s["decision"] for s in sequences] == ["better", "better"]
    assert found["verdict"]["valid"]
    texts = {s["about"]: s["text"] for s in found["verdict"]["sentences"]}
    assert texts["step 1"].startswith("B is better than A: +")
    assert texts["what now"] == "Every step is decided; the test may be stopped."
    worse = build_analysis(drawn(1, users=1500, effect=-0.5), Rules(planned_lift=0.3), OPTIONS)
    assert worse["steps"][0]["lifts"][0]["sequence"]["decision"] == "worse"


def test_a_broken_split_voids_every_decision() -> None:
    found = build_analysis(drawn(1, users=1500, effect=0.5, split=0.4), Rules(planned_lift=0.3), OPTIONS)
    assert found["assignment"]["mismatch"] and not found["verdict"]["valid"]
    assert {step["lifts"][0]["sequence"]["decision"] for step in found["steps"]} == {"void"}
    first, *others = found["verdict"]["sentences"]
    assert first["about"] == "split" and first["text"].startswith("No verdict: users are not split as planned (A ")
    assert not any("better" in sentence["text"] for sentence in others)


def test_a_a_experiments_are_rarely_decided() -> None:
    decided, peeked = 0, 0
    for seed in range(80):
        found = build_analysis(drawn(seed), Rules(planned_lift=0.2), OPTIONS)
        decided += any(step["lifts"][0]["sequence"]["decision"] != "open" for step in found["steps"])
        peeked += found["steps"][0]["lifts"][0]["fixed"]["p_value"] < 0.05
    assert decided <= 6  # 5 % of 80, and one standard error
    assert peeked <= 10


def test_a_variant_that_brings_users_back_is_pointed_out() -> None:
    draw = np.random.default_rng(0)
    arm = [user % 2 for user in range(600)]
    shown = [{u: int(n) for u, n in enumerate(1 + draw.poisson(3 + 2 * np.array(arm)))} for _ in range(2)]
    events = [{u: (int(draw.binomial(n, 0.3)),) for u, n in day.items()} for day in shown]
    found = build_analysis(joined(arm, shown, events), Rules(), OPTIONS)
    assert found["variants"][1]["exposures_lift"]["value"] == pytest.approx(0.5, abs=0.1)
    (mind,) = [s["text"] for s in found["verdict"]["sentences"] if s["about"] == "mind"]
    assert mind.startswith("Users of B have +") and "see rates per user" in mind
    by_user = build_analysis(joined(arm, shown, events), Rules(per="user"), OPTIONS)
    assert "mind" not in {sentence["about"] for sentence in by_user["verdict"]["sentences"]}


def test_a_planned_variant_that_nobody_saw_breaks_the_split(tmp_path: Path) -> None:
    exposures, outcomes, _ = World(users=200).write(tmp_path)
    split = Split({"control": 0.4, "treatment": 0.4, "third": 0.2})
    found = analyse(Files((exposures,), (outcomes,), threads=1), split, Attribution(), Rules())
    assert not found["verdict"]["valid"]
    assert found["steps"][0]["rates"]["third"] == {"value": None, "interval": None, "reason": "the denominator is 0"}
    assert "undefined" in analysis_html(found)


def test_three_variants_are_compared_with_the_base() -> None:
    days = [dict.fromkeys(range(300), 5)] * 2
    events = [{user: (int(user % 7 < 2 + user % 3),) for user in range(300)}] * 2
    arm = [user % 3 for user in range(300)]
    found = build_analysis(joined(arm, days, events, ("A", "B", "C")), Rules(), OPTIONS)
    assert [lift["variant"] for lift in found["steps"][0]["lifts"]] == ["B", "C"]
    assert found["steps"][0]["lifts"][1]["fixed"]["value"] > found["steps"][0]["lifts"][0]["fixed"]["value"] > 0


def test_a_step_without_the_former_one_has_no_transition() -> None:
    found = build_analysis(
        joined([0, 1], [{0: 3, 1: 3}], [{0: (1, 1), 1: (0, 1)}]),
        Rules(),
        OPTIONS,
    )
    transition = found["steps"][1]["transition"]
    assert transition["rates"]["A"]["reason"] == "1 users have this step without the former one"
    fine = build_analysis(joined([0, 1], [{0: 3, 1: 3}], [{0: (2, 1), 1: (1, 1)}]), Rules(), OPTIONS)
    assert fine["steps"][1]["transition"]["rates"]["A"]["value"] == 0.5
    assert fine["steps"][0]["transition"] is None


def test_a_covariate_makes_the_interval_narrower_from_the_first_look_on(tmp_path: Path) -> None:
    exposures, outcomes, past = World(users=3000, lift=0.1).write(tmp_path, seed=2)
    files = Files((exposures,), (outcomes,), threads=1)
    known = Files((exposures,), (outcomes,), Covariate((past,)), threads=1)
    plain, less = (analyse(f, Split({}), Attribution(), Rules()) for f in (files, known))
    for before, after in zip(plain["steps"][0]["looks"], less["steps"][0]["looks"], strict=True):
        (low, high), (low_after, high_after) = (look["lifts"]["treatment"]["interval"] for look in (before, after))
        assert high_after - low_after < high - low
    lift = less["steps"][0]["lifts"][0]
    assert lift["without_covariate"] == plain["steps"][0]["lifts"][0]["fixed"]
    assert less["counts"]["covariates"]["users_without"] == 0


def test_files_of_a_folder_are_measured_as_one(tmp_path: Path) -> None:
    exposures, outcomes, _ = World(users=1200, lift=0.5, days=4).write(tmp_path)
    found = analyse(
        Files((exposures,), (outcomes,), threads=1),
        Split({"treatment": 0.5, "control": 0.5}, base="control", experiment="spring"),
        Attribution(("click", "buy"), window=timedelta(hours=1)),
        Rules(planned_lift=0.3),
    )
    assert found["base"] == "control" and found["window_hours"] == 1
    assert [step["name"] for step in found["steps"]] == ["click", "buy"]
    assert found["steps"][0]["lifts"][0]["fixed"]["value"] == pytest.approx(0.5, abs=0.15)
    assert sum(sum(day["newcomers"].values()) for day in found["days"]) == sum(found["assignment"]["users"])
    assert found["counts"]["outcomes"]["late"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 0.0}, "alpha should be above 0 and below 1, received 0.0"),
        ({"planned_lift": -0.1}, "planned_lift should be above 0 and below 1"),
        ({"per": "visit"}, "per should be exposure or user, received 'visit'"),
    ],
)
def test_impossible_rules_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Rules(**options)
