"""What is said of requests that are refused for lack of room: a number a second, not a line each."""

from __future__ import annotations

import asyncio
import logging

from funnelcast.serving.http.measure import Metrics, log_line

__all__ = ["Shedding"]

_EVERY = 1.0  # seconds between two lines


class Shedding:
    """Counts refusals.

    Args:
        metrics: of the service.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._unsaid = metrics, 0
        self._timer: asyncio.TimerHandle | None = None

    def count(self) -> None:
        """Count a request; in the event loop."""
        self._metrics.shed.inc()
        self._unsaid += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY, self.say)

    def say(self) -> None:
        """Log how many there were since the last line; in the event loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unsaid:
            log_line("shed", level=logging.WARNING, requests=self._unsaid)
        self._unsaid = 0
