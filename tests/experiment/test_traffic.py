"""Simulated visits follow the world's law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from funnelcast.errors import ConfigError
from funnelcast.experiment.traffic import CHUNK_ROWS, Traffic

from .conftest import STEPS, world


@pytest.mark.parametrize("confounder", [0.0, 1.0])
def test_answers_follow_the_true_reach(confounder: float) -> None:
    simulator = world(steps=3, confounder=confounder)
    visits = list(Traffic(days=2, users=400, candidates=60, seed=1).draw(simulator))
    reach, response = (
        np.concatenate([getattr(v, name).reshape(-1, 3) for v in visits]) for name in ("reach", "response")
    )
    assert (response[:, 1:] <= response[:, :-1]).all()  # no step without the former one
    for step in range(3):
        for part in np.array_split(np.argsort(reach[:, step]), 4):
            error = response[part, step].mean() - reach[part, step].mean()
            assert abs(error) < 4 * np.sqrt(reach[part, step].mean() / len(part))


def test_candidates_of_a_visit_share_the_user_and_nothing_else() -> None:
    simulator = world(steps=1, fields=4, ids=(30, 12, 5, 8))
    (visits,) = Traffic(days=1, users=60, candidates=9).draw(simulator)
    assert visits.reach.shape == visits.response.shape == (len(visits.user), 9, 1)
    fields = [visits.features[f"field_{i:02d}"].to_numpy().reshape(-1, 9) for i in range(4)]
    assert (fields[0] == fields[0][:, :1]).all()  # the first quarter of the fields is the user's
    assert all((field != field[:, :1]).any() for field in fields[1:])
    for user in np.unique(visits.user):
        assert len(np.unique(fields[0][visits.user == user])) == 1


def test_the_same_seed_gives_the_same_traffic_and_another_gives_another() -> None:
    def answers(seed: int) -> tuple[list[int], bytes]:
        visits = list(Traffic(days=2, users=50, candidates=4, seed=seed).draw(world()))
        return [int(u) for v in visits for u in v.user], b"".join(v.response.tobytes() for v in visits)

    assert answers(3) == answers(3)
    assert answers(3)[0] != answers(4)[0]
    days = list(Traffic(days=2, users=50, candidates=4, seed=3).draw(world()))
    assert days[0].day == 0 and days[1].day == 1
    assert days[0].user.tolist() != days[1].user.tolist()


def test_the_numbers_of_visits_are_as_said() -> None:
    traffic = Traffic(users=20_000, days=2, visits=1.5)
    counts = np.stack([np.bincount(traffic.of_day(day), minlength=20_000) for day in range(2)])
    assert counts.mean() == pytest.approx(1.5, rel=0.02)
    # Var = mean + mean^2 / 2 of a Poisson whose mean is a gamma of shape 2; the days share the gamma
    assert counts[0].var() == pytest.approx(1.5 + 1.5**2 / 2, rel=0.06)
    assert np.cov(counts)[0, 1] == pytest.approx(1.5**2 / 2, rel=0.1)


def test_days_lie_after_the_data_and_drift_goes_on() -> None:
    steady, moving = (world(drift=drift, seed=5) for drift in (0.0, 4.0))
    first, second = (
        [v.reach.mean(axis=(0, 1)) for v in Traffic(days=9, users=300, candidates=20, seed=2).draw(w)]
        for w in (steady, moving)
    )
    assert np.ptp(np.array(first)[:, 0]) < 0.05
    assert not np.allclose(first, second, atol=0.02)


def test_a_visit_larger_than_a_chunk_is_drawn_whole() -> None:
    few = Traffic(days=1, users=1, candidates=CHUNK_ROWS + 1, visits=3)
    assert [len(v.user) for v in few.draw(world(steps=1))] == [1] * len(few.of_day(0))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("days", 0), ("users", 0), ("candidates", 0), ("candidates", -3)],
        *[("visits", 0.0), ("visits", float("nan")), ("seed", -1), ("seed", 2**32)],
    ],
)
def test_impossible_traffic_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option}.* received {value}"):
        Traffic(**{option: value})


def test_steps_of_the_fixture_are_those_of_the_funnel() -> None:
    assert world(steps=5).steps == STEPS
