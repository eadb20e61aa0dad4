"""Logs of an experiment -> assignment, rates, lifts and confidence sequences, as JSON values.

Shape legend: U users, S steps, A arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files, Joined, join_logs
from funnelcast.experiment.lift import Lift, relative_lift
from funnelcast.experiment.looks import Look, Rules, Totals, looks
from funnelcast.experiment.ratio import Estimate, ratio
from funnelcast.experiment.sample_ratio import sample_ratio
from funnelcast.experiment.verdict import verdict
from funnelcast.metrics import Undefined
from funnelcast.significance.holm import holm

__all__ = ["analyse", "build_analysis"]

Record = dict[str, Any]


def analyse(files: Files, split: Split, attribution: Attribution, rules: Rules) -> Record:
    """Join the logs of an experiment and measure it.

    Args:
        files: the logs.
        split: how users were meant to be split.
        attribution: how outcomes find their exposures.
        rules: what was decided before the first look.

    Returns:
        What `ab.json` holds, see docs/abtest.md.

    Raises:
        ConfigError: an option is out of range.
        DataError: a log is missing, unreadable, or does not have what it should.
    """
    window = attribution.window.total_seconds() / 3600 if attribution.window is not None else None
    options = {"crossed": split.crossed, "window_hours": window}
    return build_analysis(join_logs(files, split, attribution), rules, options)


def build_analysis(joined: Joined, rules: Rules, options: Record) -> Record:
    """Build what `ab.json` holds.

    Args:
        joined: the experiment.
        rules: what was decided before the first look.
        options: what else the numbers depend on.
    """
    totals = Totals(joined, rules.per)
    seen = list(looks(totals, rules))
    names = list(joined.shares)
    record: Record = {
        "format": 1,
        "experiment": joined.experiment,
        **options,
        "alpha": rules.alpha,
        "per": rules.per,
        "planned_lift": rules.planned_lift,
        "mixing_spread": rules.spread,
        "base": names[0],
        "variants": _variants(totals, 1 - rules.alpha),
        "assignment": _assignment(joined),
        "counts": joined.counts,
        "days": [
            {
                "date": day.isoformat(),
                "newcomers": dict(zip(names, row, strict=True)),
                "exposures": dict(zip(names, _shown(joined, number), strict=True)),
            }
            for number, (day, row) in enumerate(zip(joined.days, joined.newcomers.tolist(), strict=True))
        ],
        "steps": [_step(totals, step, rules, [day[step] for day in seen]) for step in range(len(joined.steps))],
        "service": joined.service,
    }
    _decide(record["steps"], rules.alpha, valid=not record["assignment"]["mismatch"])
    return record | {"verdict": verdict(record)}


def _variants(totals: Totals, level: float) -> list[Record]:
    """Count users and exposures; a variant that changes how often users come makes rates per exposure misleading."""
    visits = [ratio(totals.exposed * member, member.astype(np.float64)) for member in totals.members]
    found: list[Record] = []
    for (name, share), member, visit in zip(totals.joined.shares.items(), totals.members, visits, strict=True):
        users, exposures = int(np.count_nonzero(member)), int(totals.exposed[member].sum())
        found.append({"variant": name, "share": share, "users": users, "exposures": exposures})
        found[-1]["exposures_per_user"] = _estimate(visit, level)
        if len(found) > 1:
            found[-1]["exposures_lift"] = _lift(relative_lift(visits[0], visit), level)
    return found


def _shown(joined: Joined, day: int) -> list[int]:
    """Count the exposures of each variant on a day."""
    cells = joined.exposed[day]
    counts = np.bincount(joined.arm[cells.user], cells.count, len(joined.shares))
    return [round(count) for count in counts.tolist()]


def _assignment(joined: Joined) -> Record:
    """Whether every arm got its share of the users."""
    counts = np.bincount(joined.arm, minlength=len(joined.shares)).tolist()
    found = sample_ratio(counts, list(joined.shares.values()))
    return {"users": counts, "shares": list(found.shares), "p_value": found.p_value, "mismatch": found.mismatch}


def _step(totals: Totals, step: int, rules: Rules, seen: Sequence[Sequence[Look]]) -> Record:
    """Measure one step."""
    joined, level = totals.joined, 1 - rules.alpha
    names, rates = list(joined.shares), totals.rates(step)
    lifts = []
    for rival in range(1, len(names)):
        lift: Record = {"variant": names[rival], "fixed": _lift(rates.lift(rival), level)}
        if joined.covariate is not None:
            lift["without_covariate"] = _lift(rates.lift(rival, adjust=False), level)
        lifts.append(lift | {"sequence": _look(seen[-1][rival - 1])})
    return {
        "name": joined.steps[step],
        "rates": {n: _estimate(rate, level) for n, rate in zip(names, rates.plain, strict=True)},
        "lifts": lifts,
        "transition": _transition(totals, step, level) if step else None,
        "daily": [_daily(totals, step, day, level) for day in range(len(joined.days))],
        "looks": [
            {"date": day.isoformat(), "lifts": {n: _look(look) for n, look in zip(names[1:], row, strict=True)}}
            for day, row in zip(joined.days, seen, strict=True)
        ],
    }


def _estimate(estimate: Estimate | Lift | Undefined, level: float) -> Record:
    """Write an estimate with its interval; what is undefined is null, with the reason beside it."""
    if isinstance(estimate, Undefined):
        return {"value": None, "interval": None, "reason": estimate.reason}
    interval = estimate.interval(level)
    if isinstance(interval, Undefined):
        return {"value": estimate.value, "interval": None, "reason": interval.reason}
    return {"value": estimate.value, "interval": list(interval)}


def _lift(lift: Lift | Undefined, level: float) -> Record:
    """Write a lift with its interval and p-value for a single look."""
    found = _estimate(lift, level) | {"p_value": None}
    if isinstance(lift, Lift) and lift.log_error > 0:
        found["p_value"] = math.erfc(abs(math.log1p(lift.value)) / lift.log_error / math.sqrt(2))
    return found


def _look(look: Look) -> Record:
    value = None if isinstance(look.lift, Undefined) else look.lift.value
    if isinstance(look.interval, Undefined):
        return {"value": value, "interval": None, "p_value": look.p_value, "reason": look.interval.reason}
    return {"value": value, "interval": list(look.interval), "p_value": look.p_value}


def _transition(totals: Totals, step: int, level: float) -> Record:
    """Measure events of a step for each of the former one, which is a description and no test of the arms.

    Who gets as far as the former step depends on the arm, so that the two arms are not of the same kind of user.
    """
    names = list(totals.joined.shares)
    former, events = totals.events[:, step - 1], totals.events[:, step]
    broken = int(np.count_nonzero((former <= 0) & (events != 0)))
    if broken:
        reason = f"{broken:,} users have this step without the former one"
        rates: list[Estimate | Undefined] = [Undefined(reason) for _ in names]
    else:
        rates = [ratio(events * member, former * member) for member in totals.members]
    return {
        "rates": {name: _estimate(rate, level) for name, rate in zip(names, rates, strict=True)},
        "lifts": [
            {"variant": name, "fixed": _lift(relative_lift(rates[0], rate), level)}
            for name, rate in zip(names[1:], rates[1:], strict=True)
        ],
    }


def _daily(totals: Totals, step: int, day: int, level: float) -> Record:
    """Measure the exposures of one day, clustered by user."""
    joined = totals.joined
    exposed, caused = joined.exposed[day], joined.caused[day]
    events: NDArray[np.float64] = np.zeros(len(exposed.user))
    events[np.searchsorted(exposed.user, caused.user)] = caused.count[:, step]
    units = exposed.count if totals.per == "exposure" else np.ones(len(exposed.user))
    arm = joined.arm[exposed.user]
    rates = {
        name: _estimate(ratio(events * (arm == number), units * (arm == number)), level)
        for number, name in enumerate(joined.shares)
    }
    return {"date": joined.days[day].isoformat(), "rates": rates}


def _decide(steps: Sequence[Record], alpha: float, *, valid: bool) -> None:
    """Add Holm's p-value and the decision to every sequence: all steps and rivals together err with alpha at most.

    Where the split is broken no difference can be put down to the variant, and every decision is void.
    """
    pairs = [(step, lift) for step in steps for lift in step["lifts"]]
    for (step, lift), p_value in zip(pairs, holm([lift["sequence"]["p_value"] for _, lift in pairs]), strict=True):
        seen = [{"date": look["date"]} | look["lifts"][lift["variant"]] for look in step["looks"]]
        decided = valid and p_value < alpha
        # The first look with the least p-value of all up to now is the one that it comes from, and says the side: the
        # last one may stand on the other, where the lift changed.
        strongest = min(seen, key=lambda look: float(look["p_value"]))
        side = ("better" if strongest["value"] > 0 else "worse") if decided else "open" if valid else "void"
        by = {key: strongest[key] for key in ("date", "value", "interval")} if decided else None
        lift["sequence"] |= {"holm_p": p_value, "decision": side, "decided_by": by, "changed": _changed(seen)}


def _changed(seen: Sequence[Record]) -> bool:
    """Whether no lift lies in the intervals of all looks, which together hold one that stays the same."""
    intervals = [look["interval"] for look in seen if look["interval"] is not None]
    return bool(intervals) and max(low for low, _ in intervals) > min(high for _, high in intervals)
