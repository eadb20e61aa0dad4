"""What is said of requests that are refused for lack of room: numbers a second, not a line and two counts each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from funnelcast.serving.http.measure import Metrics, log_line

__all__ = ["Shedding"]

_EVERY = 1.0  # seconds between two lines


class Shedding:
    """Counts refusals; the metrics get to know of them once a second, or when they are asked for.

    Args:
        metrics: of the service.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._unsaid = metrics, 0
        self._refused = Counter[str]()  # by route, of which the metrics do not know
        self._timer: asyncio.TimerHandle | None = None

    def count(self, route: str) -> None:
        """Count a request; in the event loop.

        Args:
            route: of the request, as in the metrics.
        """
        self._refused[route] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY, self.say)

    def say(self) -> None:
        """Log how many there were since the last line; in the event loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.settle()
        if self._unsaid:
            log_line("shed", level=logging.WARNING, requests=self._unsaid)
        self._unsaid = 0

    def settle(self) -> None:
        """Let the metrics know of all; in the event loop."""
        for route, number in self._refused.items():
            self._metrics.requests.labels(route, "429").inc(number)
            self._metrics.shed.inc(number)
            self._unsaid += number
        self._refused.clear()
