"""The rates of an experiment at the end of each day, and the confidence sequences of its lifts.

Shape legend: U users, S steps, A arms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ConfigError
from funnelcast.experiment.covariate import adjusted
from funnelcast.experiment.joined import Cells, Joined
from funnelcast.experiment.lift import Lift, bounds, relative_lift
from funnelcast.experiment.ratio import Estimate, Interval, ratio
from funnelcast.experiment.sequence import always_valid_p, mixing_spread, radius
from funnelcast.metrics import Undefined

__all__ = ["LEAST_USERS", "Look", "Rates", "Rules", "Totals", "looks"]

Floats = NDArray[np.float64]
LEAST_USERS = 30  # with an event in each arm: below that a sum is not yet near to normal


@dataclass(frozen=True)
class Rules:
    """What was decided before the first look.

    Args:
        alpha: chance of ever calling a step different that is not, in (0, 1).
        planned_lift: relative lift that the experiment is made for, > 0; sequences are tightest for it.
        per: rates are events an `exposure` or events a `user`.

    Raises:
        ConfigError: a number is out of range.
    """

    alpha: float = 0.05
    planned_lift: float = 0.05
    per: Literal["exposure", "user"] = "exposure"

    def __post_init__(self) -> None:
        for name in ("alpha", "planned_lift"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} should be above 0 and below 1, received {getattr(self, name)}")
        if self.per not in ("exposure", "user"):
            raise ConfigError(f"per should be exposure or user, received '{self.per}'")

    @property
    def spread(self) -> float:
        """Spread of the mixed effects, on the scale of log(1 + lift)."""
        return mixing_spread(math.log1p(self.planned_lift), self.alpha)


@dataclass(frozen=True)
class Rates:
    """The rates of one step in every arm.

    Args:
        plain: A estimates over the same users.
        adjusted: the same with the covariate taken out; equal to `plain` without one.
        events: A numbers of users with an event.
    """

    plain: list[Estimate | Undefined]
    adjusted: list[Estimate | Undefined]
    events: list[int]

    def lift(self, rival: int, *, adjust: bool = True) -> Lift | Undefined:
        """Compute the lift of an arm over the first one.

        Args:
            rival: number of the arm, from 1.
            adjust: whether the covariate is taken out.
        """
        rates = self.adjusted if adjust else self.plain
        return relative_lift(rates[0], rates[rival])


@dataclass(frozen=True)
class Look:
    """What one look sees of one lift.

    Args:
        lift: relative lift, or why it is not defined.
        interval: of the confidence sequence, or why there is none yet.
        p_value: the least always-valid one up to this look.
    """

    lift: Lift | Undefined
    interval: Interval | Undefined
    p_value: float


@dataclass
class Totals:
    """Counts by user up to a day.

    Args:
        joined: the experiment.
        per: unit of the rates.
    """

    joined: Joined
    per: Literal["exposure", "user"]
    exposed: Floats = field(init=False)
    events: Floats = field(init=False)
    members: list[NDArray[np.bool_]] = field(init=False)

    def __post_init__(self) -> None:
        users = len(self.joined.arm)
        self.exposed, self.events = np.zeros(users), np.zeros((users, len(self.joined.steps)))
        self.members = [self.joined.arm == arm for arm in range(len(self.joined.shares))]

    def add(self, exposed: Cells, events: Cells) -> None:
        """Count one more day.

        Args:
            exposed: its exposures.
            events: its outcomes.
        """
        self.exposed[exposed.user] += exposed.count
        self.events[events.user] += events.count

    @property
    def units(self) -> Floats:
        """[U] exposures, or 1 for everyone who has come."""
        return self.exposed if self.per == "exposure" else (self.exposed > 0).astype(np.float64)

    def rates(self, step: int) -> Rates:
        """Estimate the rates of a step.

        Args:
            step: its number.
        """
        units, events = self.units, self.events[:, step]
        plain = [ratio(events * member, units * member) for member in self.members]
        counts = [int(np.count_nonzero(events[member])) for member in self.members]
        covariate = self.joined.covariate
        if covariate is None:
            return Rates(plain, plain, counts)
        come = self.exposed > 0
        # Who has not come yet belongs to no mean.
        return Rates(plain, _of_those(come, plain, covariate, self.members), counts)


def _of_those(
    come: NDArray[np.bool_],
    rates: Sequence[Estimate | Undefined],
    covariate: Floats,
    members: Sequence[NDArray[np.bool_]],
) -> list[Estimate | Undefined]:
    """Adjust among the users who have come; the others keep the influence 0."""
    part = [rate if isinstance(rate, Undefined) else Estimate(rate.value, rate.influence[come]) for rate in rates]
    found: list[Estimate | Undefined] = []
    for rate in adjusted(part, covariate[come], [member[come] for member in members]):
        if isinstance(rate, Estimate):
            influence = np.zeros(len(come))
            influence[come] = rate.influence
            rate = Estimate(rate.value, influence)
        found.append(rate)
    return found


def looks(totals: Totals, rules: Rules) -> Iterator[list[list[Look]]]:
    """Look at the experiment at the end of each day.

    Args:
        totals: of nothing yet; at the end they are those of the whole time.
        rules: what was decided before.

    Yields:
        For every day and step the look at each rival.
    """
    joined, spread = totals.joined, rules.spread
    least = [[1.0] * (len(joined.shares) - 1) for _ in joined.steps]
    for exposed, events in zip(joined.exposed, joined.known, strict=True):
        totals.add(exposed, events)
        rates = [totals.rates(step) for step in range(len(joined.steps))]
        found = []
        for step, rate in enumerate(rates):
            row = [_look(rate, rival, spread, rules.alpha, least[step][rival - 1]) for rival in _rivals(joined)]
            least[step] = [look.p_value for look in row]
            found.append(row)
        yield found


def _rivals(joined: Joined) -> range:
    return range(1, len(joined.shares))


def _look(rates: Rates, rival: int, spread: float, alpha: float, least: float) -> Look:
    lift = rates.lift(rival)
    if isinstance(lift, Undefined):
        return Look(lift, lift, least)
    events = min(rates.events[0], rates.events[rival])
    if events < LEAST_USERS:
        return Look(lift, Undefined(f"{events} users with an event in an arm, needed are {LEAST_USERS}"), least)
    if lift.log_error == 0:
        return Look(lift, Undefined("the arms do not differ in any user"), least)
    middle, half = math.log1p(lift.value), radius(lift.log_error, spread, alpha)
    p_value = always_valid_p(middle, lift.log_error, spread)
    return Look(lift, bounds(middle, half), min(least, p_value))
