"""The counts of a simulated A/B test -> rates, lifts and intervals, as JSON values.

Shape legend: U users, D days, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.experiment.lift import Lift, relative_lift
from funnelcast.experiment.ranking import Aim
from funnelcast.experiment.ratio import LEVEL, Estimate, ratio
from funnelcast.experiment.sample_ratio import sample_ratio
from funnelcast.experiment.tally import Tally
from funnelcast.files import read_json
from funnelcast.metrics import Undefined
from funnelcast.run import Run

__all__ = ["Arm", "build_record"]

Record = dict[str, Any]
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """One arm of the test.

    Args:
        name: `A` or `B`.
        run: what ranked.
        tally: what came of it.
    """

    name: str
    run: Run
    tally: Tally


def build_record(
    arms: Sequence[Arm], bounds: Mapping[str, Tally], aim: Aim, steps: Sequence[str], options: Record
) -> Record:
    """Build what `abtest.json` holds.

    Args:
        arms: A, the base, and B.
        bounds: the counts of `oracle` and `random`, over all visits.
        aim: what the arms ranked by.
        steps: names of the steps in funnel order.
        options: what else the numbers depend on; `paired` says whether both arms served all users.
    """
    metrics = [(step, np.eye(len(steps))[i]) for i, step in enumerate(steps)]
    record: Record = {
        "format": 1,
        **options,
        "rank_by": aim.name if aim.of_one_step else dict(zip(steps, aim.weights, strict=True)),
        "level": LEVEL,
        "arms": [_describe(arm) for arm in arms],
        "assignment": None if options["paired"] else _assignment(arms),
        "steps": [
            _metric(name, weights, arms, bounds) | {"offline": _offline(arms, i)}
            for i, (name, weights) in enumerate(metrics)
        ],
    }
    if not aim.of_one_step:
        record["value"] = _metric("value", np.array(aim.weights), arms, bounds)
    return record | {"of_possible": _of_possible(arms, bounds, np.array(aim.weights))}


def _of_possible(arms: Sequence[Arm], bounds: Mapping[str, Tally], aim: Weights) -> dict[str, float | None]:
    """How far each arm comes from chance (0) to the best ranking (1), by the true reach and for the aim itself."""
    low, high = (_expected(bounds[name], aim) for name in ("random", "oracle"))
    found: dict[str, float | None] = {}
    for arm in arms:
        own = _expected(arm.tally, aim)
        known = own is not None and low is not None and high is not None and high - low > 1e-9 * high
        found[arm.name] = (own - low) / (high - low) if known else None  # type: ignore[operator]
    return found


def _describe(arm: Arm) -> Record:
    experiment = arm.run.experiment
    return {
        "arm": arm.name,
        "run": str(arm.run.folder),
        "experiment": experiment.name,
        "model": experiment.model.name,
        "seed": arm.run.seed,
        "users": _users(arm.tally),
        "visits": int(arm.tally.visits.sum()),
    }


def _users(tally: Tally) -> int:
    """How many users came at all."""
    return int(np.count_nonzero(tally.visits.any(axis=1)))


def _assignment(arms: Sequence[Arm]) -> Record:
    """Whether the hash gave each arm its half."""
    found = sample_ratio([_users(arm.tally) for arm in arms], [1 / len(arms)] * len(arms))
    return {"users": list(found.counts), "p_value": found.p_value, "mismatch": found.mismatch}


def _metric(name: str, weights: Weights, arms: Sequence[Arm], bounds: Mapping[str, Tally]) -> Record:
    """Measure one step, or the value, as a mean over the items shown."""
    tallies = {arm.name: arm.tally for arm in arms} | dict(bounds)
    rates = {key: _rate(tally.events.sum(axis=1), tally.shown.sum(axis=1), weights) for key, tally in tallies.items()}
    expected = {key: _expected(tally, weights) for key, tally in tallies.items()}
    base, other = (arm.name for arm in arms)
    lift = _estimate_json(relative_lift(rates[base], rates[other]))
    return {
        "name": name,
        "rates": {key: _estimate_json(rate) | {"expected": expected[key]} for key, rate in rates.items()},
        "lift": lift | {"expected": _gain(expected[base], expected[other])},
        "daily": [_day(day, weights, arms) for day in range(arms[0].tally.shown.shape[1])],
    }


def _day(day: int, weights: Weights, arms: Sequence[Arm]) -> Record:
    """Measure one day, clustered by user as well."""
    rates = {a.name: _rate(a.tally.events[:, day], a.tally.shown[:, day], weights) for a in arms}
    base, other = (arm.name for arm in arms)
    return {
        "day": day + 1,
        **{key: _estimate_json(rate) for key, rate in rates.items()},
        "lift": _estimate_json(relative_lift(rates[base], rates[other])),
    }


def _rate(events: NDArray[Any], shown: NDArray[Any], weights: Weights) -> Estimate | Undefined:
    return ratio(events @ weights, shown)


def _gain(base: float | None, other: float | None) -> float | None:
    """Relative gain of the other over the base, where there is one."""
    return other / base - 1 if base and other is not None else None


def _expected(tally: Tally, weights: Weights) -> float | None:
    """The rate by the true reach of what was shown; nothing where nothing was."""
    shown = int(tally.shown.sum())
    return float(tally.expected @ weights) / shown if shown else None


def _estimate_json(estimate: Estimate | Lift | Undefined) -> Record:
    """Write an estimate with its interval; what is undefined is null, with the reason beside it."""
    if isinstance(estimate, Undefined):
        return {"value": None, "interval": None, "reason": estimate.reason}
    interval = estimate.interval()
    if isinstance(interval, Undefined):
        return {"value": estimate.value, "interval": None, "reason": interval.reason}
    return {"value": estimate.value, "interval": list(interval)}


def _offline(arms: Sequence[Arm], step: int) -> Record:
    """Reach AUC on TEST from the arms' reports, and the relative gain of B, as a table of offline results has it."""
    aucs: dict[str, float | None] = {}
    for arm in arms:
        path = arm.run.folder / "report.json"
        report = read_json(path, "a report", "split", "steps", version=1) if arm.run.evaluated else {}
        aucs[arm.name] = report["steps"][step]["reach"]["auc"] if report.get("split") == "test" else None
    record: Record = {"reach_auc": aucs, "gain": _gain(*(aucs[arm.name] for arm in arms))}
    missing = [str(arm.run.folder) for arm in arms if aucs[arm.name] is None]
    if missing:
        record["reason"] = f"no TEST reach AUC in the report of {' and '.join(missing)}; see 'funnelcast evaluate'"
    return record
