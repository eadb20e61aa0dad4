"""What a ranking showed and what came of it, counted by user and day.

Shape legend: U users, D days, V visits, C candidates, k shown, S steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from funnelcast.experiment.traffic import Visits

__all__ = ["Tally"]


class Tally:
    """Counts of one ranking.

    Args:
        users: U >= 1.
        days: D >= 1.
        steps: S >= 1.

    Attributes:
        visits: [U, D] visits that this ranking served.
        shown: [U, D] items shown in them.
        events: [U, D, S] steps that came of them.
        expected: [S] sum of the true reach of the items shown: the events without the luck of the answers.
    """

    def __init__(self, users: int, days: int, steps: int) -> None:
        self.visits = np.zeros((users, days), dtype=np.int32)
        self.shown = np.zeros((users, days), dtype=np.int32)
        self.events = np.zeros((users, days, steps), dtype=np.int32)
        self.expected = np.zeros(steps)

    def add(self, visits: Visits, served: NDArray[np.bool_], chosen: NDArray[np.int64]) -> None:
        """Count some visits.

        Args:
            visits: V visits of one day.
            served: [V] which of them this ranking served.
            chosen: [served, k] numbers of the candidates it showed.
        """
        user, place = visits.user[served], chosen[:, :, None]
        responses = np.take_along_axis(visits.response[served], place, axis=1)  # [served, k, S]
        np.add.at(self.visits[:, visits.day], user, 1)
        np.add.at(self.shown[:, visits.day], user, chosen.shape[1])
        np.add.at(self.events[:, visits.day], user, responses.sum(axis=1))
        self.expected += np.take_along_axis(visits.reach[served], place, axis=1).sum(axis=(0, 1))
