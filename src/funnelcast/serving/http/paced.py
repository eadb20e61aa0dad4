"""What keeps the event loop free: small requests between two looks at the sockets, and ends that are spread."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.scoring import Answered, Asked

__all__ = ["TOO_LATE", "Paced", "spread", "too_late"]

TOO_LATE = "deadline"  # code of a refusal
_TURN = 0.001  # seconds of work after which the loop looks at its sockets again
_TOGETHER = 32  # requests of one call at most; of a row each, these take two milliseconds


class Paced:
    """Scores requests of about a millisecond in the event loop: handing one to a thread and back costs as much.

    Between two looks of the loop at its sockets, requests are begun for a millisecond at most; further ones wait in
    the order in which they came. So whoever asks for health, or has to be refused, waits for a few and not for all.
    What came together is scored together.

    Args:
        score: answers requests.
        most_rows: returns how many rows may be scored together.
    """

    def __init__(
        self, score: Callable[[Sequence[Asked]], Sequence[Answered | Exception]], most_rows: Callable[[], int]
    ) -> None:
        self._score, self._most_rows = score, most_rows
        self._queue: deque[tuple[Asked, asyncio.Future[Answered]]] = deque()
        self._spent, self._planned = 0.0, False

    async def run(self, asked: Asked, *, alone: bool) -> Answered:
        """Score a request.

        Args:
            asked: the request; one that waited until its deadline is never begun.
            alone: whether no other comes at this moment, so that it need not wait for its turn.

        Raises:
            RefusalError: the request is wrong, or the deadline came first.
        """
        loop = asyncio.get_running_loop()
        self._plan(loop)
        future: asyncio.Future[Answered] = loop.create_future()
        self._queue.append((asked, future))
        if alone and len(self._queue) == 1 and self._spent < _TURN:
            self._score_next()
        return await future

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the next turn behind the next look at the sockets."""
        if not self._planned:
            self._planned = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._planned, self._spent = False, 0.0
        while self._queue and self._spent < _TURN:
            self._score_next()
        if self._queue:
            self._plan(loop)

    def _score_next(self) -> None:
        """Score the first requests of the queue together."""
        started, now = time.perf_counter(), time.monotonic()
        taken: list[tuple[Asked, asyncio.Future[Answered]]] = []
        left, most = self._most_rows(), _TOGETHER
        while self._queue and len(taken) < most and (not taken or self._queue[0][0].rows <= left):
            asked, future = self._queue.popleft()
            if future.done():  # cancelled
                continue
            if now >= asked.deadline:
                future.set_exception(too_late())
                continue
            taken.append((asked, future))
            left -= asked.rows
        if taken:
            outcomes = self._score([asked for asked, _ in taken])
            for (_, future), outcome in zip(taken, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
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
