"""Finding the experiment in a log of many, and what of its log is a repetition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from funnelcast.errors import DataError
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files
from funnelcast.experiment.watch import watch

from .logs_on_disk import at, write_lines


def seen(user: str, variant: str = "A", day: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"time": at(day), "user": user, "variant": variant, **more}


def count(folder: Path, exposures: list[Any], split: Split = Split({})) -> dict[str, Any]:  # noqa: B008
    return watch(Files((write_lines(folder / "e.jsonl", exposures),), (), threads=1), split)


def test_an_experiment_is_found_among_many(tmp_path: Path) -> None:
    names = [f"experiment {number:03}" for number in range(250)]
    exposures = [seen(user, variant, experiment=name) for name in names for user, variant in ("aA", "bB")]
    for name in names[::83]:
        found = count(tmp_path, exposures, Split({}, experiment=name))
        assert found["experiment"] == name and found["counts"]["exposures"]["kept"] == 2
    few = "known: experiment 000, experiment 001, experiment 002, experiment 003"
    with pytest.raises(
        DataError,
        match=rf"'experimnt 249' has no rows; did you mean 'experiment 249'\? {few}, experiment 249 and 245 more$",
    ):
        count(tmp_path, exposures, Split({}, experiment="experimnt 249"))
    with pytest.raises(DataError, match=rf"several experiments, name one; {few}, experiment 004 and 245 more$"):
        count(tmp_path, exposures)


def test_a_request_of_two_users_is_no_repetition(tmp_path: Path) -> None:
    exposures = [
        *[seen("a", request_id="r"), seen("a", day=2, request_id="r")],  # repeated
        *[seen("b", "B", request_id="r"), seen("b", "B", request_id="s")],
        *[seen("c"), seen("c"), seen("c", day=2)],  # repeated once, for it has no request
        *[seen("d", "B", request_id=None), seen("d", "B", request_id="")],  # repeated, an empty one is none
    ]
    counts = count(tmp_path, exposures)["counts"]["exposures"]
    assert (counts["repeated"], counts["kept"], counts["users_seen"]) == (3, 6, 4)
