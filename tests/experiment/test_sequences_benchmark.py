"""The benchmark of sequences looks as `abtest analyse` does, and keeps its level."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.sequences import ALPHA, amounts, clustered, counted, follow, new_users, radii, returning_users

from funnelcast.experiment.lift import Lift, relative_lift
from funnelcast.experiment.ratio import ratio
from funnelcast.experiment.sequence import radius


def test_its_arms_are_those_of_the_analysis() -> None:
    draw = np.random.default_rng(0)
    units = draw.poisson(3, (2, 5, 200)).astype(float)
    events = draw.binomial(units.astype(int), 0.3).astype(float)
    a, b = (clustered(events[arm], units[arm]) for arm in range(2))
    for run in range(5):
        nothing = np.zeros(200)
        sides = [
            (np.append(events[0, run], nothing), np.append(units[0, run], nothing)),
            (np.append(nothing, events[1, run]), np.append(nothing, units[1, run])),
        ]
        lift = relative_lift(*(ratio(*side) for side in sides))
        assert isinstance(lift, Lift)
        assert b.rate[run] / a.rate[run] - 1 == pytest.approx(lift.value)
        assert np.hypot(a.error, b.error)[run] == pytest.approx(lift.log_error)
    once = counted(np.array([30.0]), 200)
    same = clustered((np.arange(200) < 30)[None].astype(float), np.ones((1, 200)))
    assert once.rate == pytest.approx(same.rate)
    assert once.error == pytest.approx(same.error)
    errors = np.array([0.01, 0.2])
    assert radii(errors, 0.1) == pytest.approx([radius(error, 0.1, ALPHA) for error in errors])


@pytest.mark.parametrize("world", [new_users(0.2, 60), returning_users(0.2, 150), amounts(0.1, 200)])
def test_sequences_keep_their_level_where_peeking_does_not(world: object) -> None:
    found = follow(world, 200, 20, 0.0, 0.2, seed=1)  # type: ignore[arg-type]
    assert found["sequence"] <= 0.05 < found["peeking"]
    assert found["coverage"] >= 0.95
