"""Which outcomes count: those of the experiment, with a time where there is a window, of one user's request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from funnelcast.errors import DataError
from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files, Joined, join_logs
from funnelcast.experiment.left_out import left_out
from funnelcast.experiment.looks import Rules

from .logs_on_disk import at, write_lines

DAY = Attribution(window=timedelta(days=1))
EVEN = Split({"A": 0.5, "B": 0.5})


def files(folder: Path, exposures: list[Any], outcomes: list[Any]) -> Files:
    logs = (write_lines(folder / "e.jsonl", exposures),), (write_lines(folder / "o.jsonl", outcomes),)
    return Files(*logs, threads=1)


def seen(user: str, variant: str = "A", day: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"time": at(day), "user": user, "variant": variant, **more}


def did(user: str, day: float = 2.0, **more: Any) -> dict[str, Any]:
    return {"time": at(day), "user": user, "click": 1, **more}


def counted(joined: Joined) -> Mapping[str, Any]:
    """What became of the outcomes, without the reasons that had none."""
    return {key: count for key, count in joined.counts["outcomes"].items() if count}


def clicks(joined: Joined) -> float:
    return float(sum(cells.count.sum() for cells in joined.known))


def test_a_window_leaves_out_outcomes_of_a_request_without_a_time(tmp_path: Path) -> None:
    exposures = [seen("a", request_id="r1"), seen("b", "B", request_id="r2")]
    outcomes = [
        {"request_id": request, "time": time, "click": 1}
        for request, time in (("r1", at(1.5)), ("r1", None), ("r2", ""), ("r2", at(3)))
    ]
    logs = files(tmp_path, exposures, outcomes)
    found = join_logs(logs, EVEN, DAY)
    assert counted(found) == {
        **{"rows": 4, "without_key_or_time": 2, "late": 1, "kept": 1, "joined_by": "request_id"},
    }
    assert clicks(found) == 1
    endless = join_logs(logs, EVEN, Attribution())
    assert counted(endless) == {"rows": 4, "kept": 4, "joined_by": "request_id"}


def test_outcomes_of_another_experiment_do_not_count(tmp_path: Path) -> None:
    names = ("spring", "autumn")
    exposures = [seen(user, variant, experiment=name) for user, variant in ("aA", "bB") for name in names]
    outcomes = [did("a", experiment=name) for name in (*names, None, "")]
    outcomes += [did("b", experiment="autumn") for _ in range(2)] + [did("b", experiment="spring") | {"time": None}]
    logs, spring = files(tmp_path, exposures, outcomes), Split(EVEN.shares, experiment="spring")
    found = join_logs(logs, spring, Attribution())
    # The two without a name are of every experiment; they differ from each other in the empty text.
    assert counted(found) == {
        **{"rows": 7, "other_experiment": 3, "without_key_or_time": 1, "kept": 3, "joined_by": "user"},
    }
    assert clicks(found) == 3
    record = analyse(logs, spring, Attribution(), Rules())
    assert ("outcomes", "of another experiment", 3) in left_out(record)


def test_the_only_experiment_of_the_exposures_need_not_be_named(tmp_path: Path) -> None:
    exposures = [seen(user, variant, experiment="spring") for user, variant in ("aA", "bB")]
    outcomes = [did("a", experiment=name) for name in ("spring", "autumn")]
    assert counted(join_logs(files(tmp_path, exposures, outcomes), EVEN, Attribution()))["other_experiment"] == 1
    unnamed = [seen("a"), seen("b", "B")]
    assert clicks(join_logs(files(tmp_path, unnamed, outcomes), EVEN, Attribution())) == 2
    past = Split({"all": 1.0}, pooled=True)
    assert clicks(join_logs(files(tmp_path, exposures, outcomes), past, Attribution())) == 2


def test_outcomes_of_another_experiment_are_left_out_of_a_join_by_request(tmp_path: Path) -> None:
    exposures = [seen(user, variant, experiment="spring", request_id=user) for user, variant in ("aA", "bB")]
    outcomes = [{"request_id": "a", "click": 1, "experiment": name} for name in ("spring", "autumn")]
    found = join_logs(files(tmp_path, exposures, outcomes), EVEN, Attribution())
    assert counted(found) == {"rows": 2, "other_experiment": 1, "kept": 1, "joined_by": "request_id"}


def test_an_id_of_two_users_cannot_join_outcomes(tmp_path: Path) -> None:
    exposures = [seen("a", request_id="r"), seen("b", "B", request_id="r"), seen("a", day=2, request_id="r")]
    logs = files(tmp_path, exposures, [did("b", request_id="r")])
    with pytest.raises(
        DataError,
        match=r"o\.jsonl: joining by request_id needs exposures whose column 'request_id' holds ids of one user each, "
        r"received 'r' of 2 users; --join user goes by user and time$",
    ):
        join_logs(logs, EVEN, Attribution())
    found = join_logs(logs, EVEN, Attribution(join="user"))
    assert found.counts["exposures"]["kept"] == 2 and found.counts["exposures"]["repeated"] == 1
    assert found.arm.tolist() == [0, 1] and clicks(found) == 1
