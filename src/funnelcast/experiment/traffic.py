"""Simulated visits with known truth: who comes when, what could be shown, and how each of it would be answered.

Shape legend: V visits, C candidates a visit, S steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from funnelcast.datasets.synthetic import PERIOD, Synthetic
from funnelcast.errors import ConfigError

__all__ = ["Traffic", "Visits"]

Floats = NDArray[np.float64]
CHUNK_ROWS = 65_536  # candidates drawn and scored at once
ACTIVITY_SHAPE = 2.0  # of the gamma distribution, mean 1, by which some users come more often than others
# Keeps the numbers of an experiment apart from those that made the dataset, which has the same seed.
STREAM = 0xAB


@dataclass(frozen=True)
class Visits:
    """Some visits of one day, with everything that could be shown in them.

    Args:
        day: from 0.
        user: [V] user number.
        features: V*C rows as a log would have them, the candidates of one visit one after the other.
        reach: [V, C, S] true reach of every candidate given its features.
        response: [V, C, S] bool, whether the user would go so far if the candidate were shown.
    """

    day: int
    user: NDArray[np.int64]
    features: pa.Table
    reach: Floats
    response: NDArray[np.bool_]


@dataclass(frozen=True)
class Traffic:
    """How much traffic there is.

    A user's visits a day are Poisson with the mean `visits` * a, a ~ Gamma(2, 1/2) the user's own. Every candidate of a
    visit has the user's fields and other fields drawn anew by the world's law, at a time after the dataset's last row.
    Its answer is drawn before anyone ranks, so whoever shows it gets the same answer.

    Args:
        days: >= 1.
        users: >= 1.
        candidates: candidates a visit, >= 1.
        visits: mean visits a user and day, > 0.
        seed: draws the traffic, in [0, 2^32); the world stays the same.

    Raises:
        ConfigError: a number is out of range.
    """

    days: int = 7
    users: int = 20_000
    candidates: int = 50
    visits: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("days", 1), ("users", 1), ("candidates", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} should be at least {least}, received {getattr(self, name)}")
        if not 0 < self.visits < 1000:
            raise ConfigError(f"visits a user and day should be above 0 and below 1000, received {self.visits}")
        if self.seed >= 2**32:
            raise ConfigError(f"seed should be below 2^32, received {self.seed}")

    def of_day(self, day: int) -> NDArray[np.int64]:
        """Draw the user of every visit of a day.

        Args:
            day: from 0.
        """
        activity = self._numbers().gamma(ACTIVITY_SHAPE, 1 / ACTIVITY_SHAPE, self.users)
        return np.repeat(np.arange(self.users), self._numbers(1 + day).poisson(self.visits * activity))

    def draw(self, simulator: Synthetic) -> Iterator[Visits]:
        """Draw all visits, chunk by chunk, in the order of the days.

        Args:
            simulator: the world.
        """
        world, size = simulator.world(), max(1, CHUNK_ROWS // self.candidates)
        days = PERIOD.total_seconds() / 86_400
        for day in range(self.days):
            users = self.of_day(day)
            for number, first in enumerate(range(0, len(users), size)):
                user = users[first : first + size]
                rng = self._numbers(1 + day, 1 + number)
                time = np.repeat(1 + (day + rng.random(len(user))) / days, self.candidates)
                inputs = world.draw(rng, time, np.repeat(user, self.candidates))
                logits = world.logits(inputs)
                response = np.logical_and.accumulate(world.respond(rng, inputs, logits), axis=1)
                shape = (len(user), self.candidates, world.n_steps)
                features = pa.table(simulator.feature_columns(inputs))
                yield Visits(day, user, features, world.truth(logits).reach.reshape(shape), response.reshape(shape))

    def _numbers(self, *place: int) -> np.random.Generator:
        """Numbers that depend on the seed and the place alone."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((STREAM, self.seed, *place))))
