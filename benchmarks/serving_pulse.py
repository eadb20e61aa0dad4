"""How fast the machine itself is from moment to moment, so that its own stalls are told from those of the service.

A virtual machine shares its cores with neighbours it cannot see. While they take them, all that runs here is many times
slower, and the counters of the system need not say so. The client therefore does the same
small work again and again and keeps how much CPU time it took. CPU time of the client's own thread does not grow
while another process of this machine has the core, the service among them: what slows the work is the machine.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

EVERY = 0.005  # seconds from one piece of work to the next
WORK = 2000  # additions, about 0.1 ms
WINDOW = 0.02  # seconds whose pieces are taken together: an interrupt can double a single one
SLOW = 2.5  # times the usual; a busy second thread of the same core cannot do that, it takes half at most
BEFORE, AFTER = 0.05, 0.2  # seconds: who was sent then still waits, or finds the queue of that moment


class Pulse:
    """Does a piece of work every few milliseconds.

    Attributes:
        looks: seconds since the begin, and CPU seconds that the work took.
    """

    def __init__(self) -> None:
        self.looks: list[tuple[float, float]] = []
        self._next = 0.0

    def look(self, now: float) -> None:
        """Work, if it is time.

        Args:
            now: seconds since the begin.
        """
        if now < self._next:
            return
        self._next = now + EVERY
        started, total = time.thread_time(), 0
        for number in range(WORK):
            total += number
        self.looks.append((now, time.thread_time() - started))


def slow_moments(looks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the begins of the windows in which the machine was slow.

    Args:
        looks: of a `Pulse`, (L, 2).
    """
    if not len(looks):
        return np.empty(0)
    window = (looks[:, 0] / WINDOW).astype(np.int64)
    took = np.bincount(window, looks[:, 1]) / np.maximum(np.bincount(window), 1)
    return np.asarray(np.flatnonzero(took > SLOW * np.median(looks[:, 1])) * WINDOW, dtype=np.float64)


def calm(times: NDArray[np.float64], moments: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which times are far from each slow moment.

    Whether a request counts depends on when it was sent alone, never on how long it took.

    Args:
        times: seconds since the begin, (N,).
        moments: begins of slow windows, sorted.
    """
    following = np.searchsorted(moments, times - WINDOW - AFTER)  # the first window that does not end long before
    begins = np.append(moments, np.inf)[following]
    return np.asarray(begins - BEFORE > times)
