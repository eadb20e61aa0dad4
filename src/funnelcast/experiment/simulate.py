"""Two runs rank simulated traffic for some days, with known truth: an online A/B test that costs nobody anything.

Shape legend: V visits, C candidates a visit, k shown, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from funnelcast.datasets.synthetic import Synthetic
from funnelcast.errors import ConfigError
from funnelcast.experiment.assignment import assign
from funnelcast.experiment.ranking import Aim, aim_at, top
from funnelcast.experiment.served_model import ServedModel
from funnelcast.experiment.simulated_world import common_world
from funnelcast.experiment.simulation_record import Arm, build_record
from funnelcast.experiment.tally import Tally
from funnelcast.experiment.traffic import Traffic, Visits
from funnelcast.predict import Predictor
from funnelcast.progress import RowProgress
from funnelcast.run import Run
from funnelcast.schema import Schema

__all__ = ["Plan", "simulate"]

ARMS = ("A", "B")
_CHECKED = 200  # candidates by whose scores a served model is told from the other run's
_CLEARLY = 10  # times nearer to the other run's scores than to its own: no rounding of an export does that


@dataclass(frozen=True)
class Plan:
    """How the arms are tried.

    Args:
        traffic: who visits, and what could be shown.
        show: items shown in a visit, >= 1, at most the candidates.
        rank_by: step whose reach ranks the candidates; None for the last one.
        values: step -> what it is worth; if given, the expected value ranks instead.
        paired: both arms serve every visit, with the same answers; else a user belongs to one arm by a stable hash.
        salt: of that hash.

    Raises:
        ConfigError: more is shown than there are candidates.
    """

    traffic: Traffic
    show: int = 5
    rank_by: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    paired: bool = False
    salt: str = "simulate"

    def __post_init__(self) -> None:
        if not 1 <= self.show <= self.traffic.candidates:
            raise ConfigError(
                f"items to show should be at least 1 and at most the {self.traffic.candidates} candidates, "
                f"received {self.show}"
            )


def simulate(
    runs: tuple[Run, Run],
    plan: Plan,
    data: Path | None = None,
    services: tuple[ServedModel, ServedModel] | None = None,
) -> dict[str, Any]:
    """Let two runs rank the same days of simulated traffic, and compare what came of it.

    Every visit offers candidates; its arm's run ranks them, the best are shown, and the user answers by the true
    funnel. The ranking by the true reach and the one by chance serve all visits besides, as bounds.

    Args:
        runs: A, the base, and B: complete runs trained on data of one simulated world.
        plan: the traffic and how the arms share it.
        data: the prepared folder of both; None for the one that they have recorded.
        services: what a running service has of both and scores in their place; None for the runs themselves.

    Returns:
        What `abtest.json` holds, see docs/abtest.md.

    Raises:
        ConfigError: a run's data are not simulated, the runs are of different worlds, an option is wrong, or a model of
            the service gives the scores of the other run.
        ArtifactError: a run is not complete, or a file is damaged.
    """
    simulator = common_world(runs, data)
    aim = aim_at(simulator.steps, plan.rank_by, plan.values)
    traffic = plan.traffic
    arms = _arms(plan)
    size = (traffic.users, traffic.days, len(simulator.steps))
    tallies = {name: Tally(*size) for name in (*ARMS, "oracle", "random")}
    scorers = [one.reach for one in services] if services else [partial(_reach, Predictor(r), r.schema) for r in runs]
    rankers = [Ranker(reach, aim, simulator.steps) for reach in scorers]
    total = sum(len(traffic.of_day(day)) for day in range(traffic.days))
    if not total:
        raise ConfigError(f"there should be at least one visit, received none of {traffic.users} users; raise visits")
    if services:
        _check_served(services, runs, next(traffic.draw(simulator)).features.slice(0, _CHECKED))
    with RowProgress("simulate", total * traffic.candidates) as progress:
        for visits in traffic.draw(simulator):
            for name, ranker in zip(ARMS, rankers, strict=True):
                served = arms[name][visits.user]
                tallies[name].add(visits, served, ranker.choose(visits, served, plan.show))
            _bounds(tallies, visits, aim, plan.show)
            progress.advance(visits.features.num_rows)
    described = [Arm(name, run, tallies[name]) for name, run in zip(ARMS, runs, strict=True)]
    bounds = {name: tallies[name] for name in ("oracle", "random")}
    options = _options(plan, simulator)
    if services:
        options["versions"] = {name: served.version for name, served in zip(ARMS, services, strict=True)}
    return build_record(described, bounds, aim, simulator.steps, options)


def _arms(plan: Plan) -> dict[str, NDArray[np.bool_]]:
    """Which users [U] each arm serves."""
    users = plan.traffic.users
    if plan.paired:
        return {name: np.ones(users, dtype=bool) for name in ARMS}
    own = assign(range(users), plan.salt)
    return {name: own == number for number, name in enumerate(ARMS)}


def _check_served(services: tuple[ServedModel, ServedModel], runs: tuple[Run, Run], rows: pa.Table) -> None:
    """Refuse models that a service has under each other's names: its metadata tell nothing of runs, scores do."""
    expected = [_reach(Predictor(run), run.schema, rows) for run in runs]
    for number, served in enumerate(services):
        given = served.reach(rows)
        own, other = (
            max(float(np.abs(given[step] - scores[step]).max()) for step in given)
            for scores in (expected[number], expected[1 - number])
        )
        if other * _CLEARLY < own:
            raise ConfigError(
                f"--model should name an export of {runs[number].folder} as {ARMS[number]}, received '{served.name}', "
                f"which scores as {runs[1 - number].folder} does; name the models in the order of the runs"
            )


def _bounds(tallies: dict[str, Tally], visits: Visits, aim: Aim, show: int) -> None:
    """Count what the best ranking and none would have shown."""
    everyone = np.ones(len(visits.user), dtype=bool)
    tallies["oracle"].add(visits, everyone, top(visits.reach @ np.array(aim.weights), show))
    # Candidates are drawn independently, so the first ones are as good as a draw.
    first = np.broadcast_to(np.arange(show), (len(visits.user), show))
    tallies["random"].add(visits, everyone, first)


def _reach(predictor: Predictor, schema: Schema, rows: pa.Table) -> dict[str, NDArray[Any]]:
    """Step -> reach of raw rows."""
    scores = predictor.scores(rows)
    return {name: scores[f"reach_{name}"].to_numpy() for name in schema.step_names}


class Ranker:
    """A model that chooses what to show.

    Args:
        reach: maps raw rows [B] to the reach [B] of each step.
        aim: what it ranks by.
        steps: names of the steps.
    """

    def __init__(self, reach: Callable[[pa.Table], Mapping[str, NDArray[Any]]], aim: Aim, steps: Sequence[str]) -> None:
        self._reach, self._steps, self._weights = reach, steps, np.array(aim.weights)

    def choose(self, visits: Visits, served: NDArray[np.bool_], show: int) -> NDArray[np.int64]:
        """Choose k candidates of the visits it serves.

        Args:
            visits: V visits.
            served: [V] which of them it serves.
            show: k.

        Returns:
            [served, k] numbers of candidates.
        """
        candidates = visits.response.shape[1]
        rows = visits.features if served.all() else visits.features.filter(np.repeat(served, candidates))
        reach = self._reach(rows)
        worth = np.zeros(rows.num_rows)
        for step, weight in zip(self._steps, self._weights, strict=True):
            if weight:
                worth += weight * reach[step]
        return top(worth.reshape(-1, candidates), show)


def _options(plan: Plan, simulator: Synthetic) -> dict[str, Any]:
    """What the numbers depend on besides the runs."""
    traffic = plan.traffic
    return {
        "days": traffic.days,
        "users": traffic.users,
        "candidates": traffic.candidates,
        "visits_per_user_and_day": traffic.visits,
        "show": plan.show,
        "seed": traffic.seed,
        "paired": plan.paired,
        "salt": None if plan.paired else plan.salt,
        "dataset_options": {key: list(v) if isinstance(v, tuple) else v for key, v in simulator.options().items()},
    }
