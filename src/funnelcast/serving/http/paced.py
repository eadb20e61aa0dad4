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
_CALL = 0.002  # seconds that a call of several requests should take
_TOGETHER = 32  # requests of one call at most
_FEW = 8  # of one call in any case
_RELEASED = 8  # answers that are given out between two looks at the sockets, since writing them takes time, too
_NEWEST = 0.1  # share of the newest call in the time of a request

_Waiting = tuple[Asked, asyncio.Future[Answered]]


class Paced:
    """Scores requests of about a millisecond in the event loop: handing one to a thread and back costs as much.

    What came together is scored together, as many requests as take two milliseconds by those before. Between two looks
    of the loop at its sockets, calls are begun for a millisecond and few answers are given out; the other requests
    wait in the order in which they came. So whoever asks for health, or has to be refused, waits for a few and not
    for all.

    Args:
        score: answers requests.
        most_rows: returns how many rows may be scored together.
    """

    def __init__(
        self, score: Callable[[Sequence[Asked]], Sequence[Answered | Exception]], most_rows: Callable[[], int]
    ) -> None:
        self._score, self._most_rows = score, most_rows
        self._queue: deque[_Waiting] = deque()
        self._scored: deque[tuple[asyncio.Future[Answered], Answered | Exception]] = deque()
        self._spent, self._planned = 0.0, False
        self._seconds = _CALL / _TOGETHER  # of a request

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
        if alone and len(self._queue) == 1 and not self._scored and self._spent < _TURN:
            self._score_next()
            self._release()
        return await future

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the next turn behind the next look at the sockets."""
        if not self._planned:
            self._planned = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._planned, self._spent = False, 0.0
        while self._queue and len(self._scored) < _RELEASED and self._spent < _TURN:
            self._score_next()
        self._release()
        if self._queue or self._scored:
            self._plan(loop)

    def _release(self) -> None:
        """Give answers out."""
        for _ in range(min(_RELEASED, len(self._scored))):
            future, outcome = self._scored.popleft()
            if future.done():  # cancelled
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _score_next(self) -> None:
        """Score the first requests of the queue together."""
        started, taken = time.perf_counter(), self._take()
        if taken:
            try:
                outcomes = self._score([asked for asked, _ in taken])
            except Exception as error:  # nobody is to wait for ever
                outcomes = [error] * len(taken)
            self._scored += zip([future for _, future in taken], outcomes, strict=True)
        spent = time.perf_counter() - started
        self._spent += spent
        if len(taken) >= _FEW:  # in a smaller one, the call itself takes most of the time
            self._seconds += _NEWEST * (spent / len(taken) - self._seconds)

    def _take(self) -> list[_Waiting]:
        """Take the requests of a call from the queue; those who are too late get their refusal with the answers."""
        now = time.monotonic()
        taken: list[_Waiting] = []
        left, most = self._most_rows(), min(_TOGETHER, max(_FEW, int(_CALL / self._seconds)))
        while self._queue and len(taken) < most and len(self._scored) < _RELEASED:
            if taken and self._queue[0][0].rows > left:
                break
            asked, future = self._queue.popleft()
            if future.done():  # cancelled
                continue
            if now >= asked.deadline:
                self._scored.append((future, too_late()))
                continue
            taken.append((asked, future))
            left -= asked.rows
        return taken


def too_late() -> RefusalError:
    """Make the refusal of what met its deadline."""
    return RefusalError(504, TOO_LATE, "no answer was ready before the deadline")


def spread(seconds: float) -> float:
    """Lengthen a time limit by up to a fifth at random: who came together is not let go in one moment.

    Args:
        seconds: the limit.
    """
    return seconds * random.uniform(1.0, 1.2)
