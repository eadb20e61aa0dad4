"""What keeps the event loop free: small jobs between two looks at the sockets, and ends that are spread."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from funnelcast.serving.http.refusal import RefusalError

__all__ = ["TOO_LATE", "Paced", "spread", "too_late"]

T = TypeVar("T")
TOO_LATE = "deadline"  # code of a refusal
_TURN = 0.001  # seconds of work after which the loop looks at its sockets again


class Paced:
    """Runs jobs of about a millisecond where they are asked for: handing one to a thread and back costs as much.

    Between two looks of the loop at its sockets, jobs are begun for a millisecond at most; further ones wait in the
    order in which they came. So whoever asks for health, or has to be refused, waits for a few jobs and not for all.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[Callable[[], Any], float, asyncio.Future[Any]]] = deque()
        self._spent, self._planned = 0.0, False

    async def run(self, job: Callable[[], T], deadline: float) -> T:
        """Run a job, at once if its turn has time left.

        Args:
            job: what to do.
            deadline: on the clock of `time.monotonic`; a job that waited until then is never begun.

        Raises:
            RefusalError: the deadline came first.
        """
        loop = asyncio.get_running_loop()
        self._plan(loop)
        if not self._queue and self._spent < _TURN:
            if time.monotonic() >= deadline:
                raise too_late()
            return self._timed(job)
        future: asyncio.Future[T] = loop.create_future()
        self._queue.append((job, deadline, future))
        return await future

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the next turn behind the next look at the sockets."""
        if not self._planned:
            self._planned = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._planned, self._spent = False, 0.0
        while self._queue and self._spent < _TURN:
            job, deadline, future = self._queue.popleft()
            if future.done():  # cancelled
                continue
            if time.monotonic() >= deadline:
                future.set_exception(too_late())
                continue
            try:
                found = self._timed(job)
            except Exception as error:  # it belongs to whoever waits
                future.set_exception(error)
            else:
                future.set_result(found)
        if self._queue:
            self._plan(loop)

    def _timed(self, job: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return job()
        finally:
            self._spent += time.perf_counter() - started


def too_late() -> RefusalError:
    """Make the refusal of what met its deadline."""
    return RefusalError(504, TOO_LATE, "no answer was ready before the deadline")


def spread(seconds: float) -> float:
    """Lengthen a time limit by up to a tenth at random: who came together is not let go in one moment.

    Args:
        seconds: the limit.
    """
    return seconds * random.uniform(1.0, 1.1)
