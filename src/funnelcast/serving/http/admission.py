"""How many requests are worked on at once, and until when; what is too much is refused at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request

from funnelcast.serving.http.measure import log_line
from funnelcast.serving.http.paced import Paced, spread, too_late
from funnelcast.serving.http.refusal import RefusalError, excerpt, forget_frames, overloaded, slow_body
from funnelcast.serving.http.scoring import Answered, Asked
from funnelcast.serving.http.settings import Limits

__all__ = ["GATHERED", "Admission"]

T = TypeVar("T")
GATHERED = "gathered"  # in the state of a request whose body is complete, so that it needs no time limit
_CLOSE = {"connection": "close"}  # the rest of the body is not read


class Admission:
    """Reads bodies and runs jobs, large ones in threads and small ones in the event loop, within limits.

    A request that comes while `limits.waiting` others are scored or wait is refused at once. One that waits until its
    deadline is never begun; one that is being scored at its deadline keeps its place until it ends.

    Args:
        limits: of requests.
        threads: that run large jobs.
        body_seconds: until a body has to be complete.
        paced: runs the small ones.

    Attributes:
        inside: jobs that run or wait.
        coming: requests whose head was read, and whose task has not run yet.
        held: bytes of bodies in memory.
    """

    def __init__(self, limits: Limits, threads: int, body_seconds: float, paced: Paced) -> None:
        self._limits, self._body_seconds = limits, body_seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        self._paced = paced
        self.inside, self.coming, self.held = 0, 0, 0

    @property
    def full(self) -> bool:
        """Whether all places are taken, by those that come as well."""
        return self.inside + self.coming >= self._limits.waiting

    def check(self) -> None:
        """Refuse a request early, before its body is read.

        Raises:
            RefusalError: all places are taken.
        """
        if self.inside >= self._limits.waiting:
            raise overloaded()

    def deadline(self, headers: Headers) -> float:
        """Return when an answer has to be ready, on the clock of `time.monotonic`.

        Args:
            headers: of the request; `x-deadline-ms` shortens the service's own deadline.

        Raises:
            RefusalError: the header is no whole number above 0.
        """
        text, largest = headers.get("x-deadline-ms"), self._limits.deadline_ms
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            wanted = "the header 'x-deadline-ms' should be a whole number of milliseconds above 0"
            raise RefusalError(400, "wrong_header", f"{wanted}, received {excerpt(text)}", column="x-deadline-ms")
        return time.monotonic() + min(largest, int(text or largest)) / 1000

    async def read(self, request: Request) -> bytes:
        """Read a body, and count its bytes until `let_go`.

        Args:
            request: whose body has not been read.

        Raises:
            RefusalError: it is too large, too slow, packed, or no JSON by its header.
        """
        largest = self._limits.body_bytes
        _check_headers(request.headers, largest)
        parts: list[bytes] = []
        try:
            await self._read_in_time(request, parts, largest, counted=True)
        except BaseException:  # of a task that is cancelled, too
            self.held -= sum(map(len, parts))
            raise
        return b"".join(parts)

    async def read_aside(self, request: Request, largest: int) -> bytes:
        """Read a small body that takes none of the memory for requests for scores, and is not refused for lack of it.

        Args:
            request: whose body has not been read, of a client that is known.
            largest: bytes of the body.

        Raises:
            RefusalError: it is too large, too slow, packed, or no JSON by its header.
        """
        _check_headers(request.headers, largest)
        parts: list[bytes] = []
        await self._read_in_time(request, parts, largest, counted=False)
        return b"".join(parts)

    def let_go(self, body: bytes) -> None:
        """Count a body no more.

        Args:
            body: that was read.
        """
        self.held -= len(body)

    async def _read_in_time(self, request: Request, parts: list[bytes], largest: int, *, counted: bool) -> None:
        if getattr(request.state, GATHERED, False):
            await self._read(request, parts, largest, counted=counted)
            return
        try:
            async with asyncio.timeout(spread(self._body_seconds)):
                await self._read(request, parts, largest, counted=counted)
        except TimeoutError as error:
            raise slow_body(self._body_seconds, sum(map(len, parts))) from error

    async def _read(self, request: Request, parts: list[bytes], largest: int, *, counted: bool) -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            self.held += len(part) if counted else 0
            parts.append(part)
            if size > largest:
                raise _too_large(largest, "more")
            if counted and self.held > self._limits.held_bytes:
                raise overloaded("the bodies of other requests take the memory", **_CLOSE)

    async def run_small(self, asked: Asked) -> Answered:
        """Score a request in the event loop.

        Args:
            asked: the request, of few rows.

        Raises:
            RefusalError: there is no place, the deadline came first, or the request is wrong.
        """
        self.check()
        self.inside += 1
        try:
            return await self._paced.run(asked, alone=self.coming <= 1)  # itself
        finally:
            self.inside -= 1

    async def run(self, job: Callable[[], T], deadline: float) -> T:
        """Run a job in a thread.

        Args:
            job: what to do.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RefusalError: there is no place, or the deadline came first.
        """
        self.check()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()
        waiting = [job]
        running = self._pool.submit(_take_and_run, waiting)
        self.inside += 1
        running.add_done_callback(lambda ended: loop.call_soon_threadsafe(self._leave, ended, answered))
        timer = loop.call_later(deadline - time.monotonic(), _give_up, waiting, running, answered)
        try:
            return await answered
        finally:
            timer.cancel()

    def _leave(self, ended: Future[T], answered: asyncio.Future[T]) -> None:
        """Hand on what a job ended with; behind its deadline nobody waits for it."""
        self.inside -= 1
        if answered.done():
            _forget(ended)
        elif ended.cancelled():
            answered.cancel()
        elif (error := ended.exception()) is not None:
            answered.set_exception(error)
        else:
            answered.set_result(ended.result())

    def close(self) -> None:
        """Wait for what runs; nobody waits for the rest any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _take_and_run(waiting: list[Callable[[], T]]) -> T:
    return waiting.pop()()


def _give_up(waiting: list[Callable[[], Any]], running: Future[Any], answered: asyncio.Future[Any]) -> None:
    if not answered.done():
        answered.set_exception(too_late())
        # What is cancelled stays in the pool's queue until a thread comes to it: with its job, its body would, too.
        if running.cancel():
            waiting.clear()


def _forget(ended: Future[Any]) -> None:
    """Log that a job failed behind its deadline; a refusal, which holds what a client sent, is not logged."""
    if ended.cancelled():
        return
    error = ended.exception()
    if error is not None:
        if not isinstance(error, RefusalError):
            log_line("late_failure", level=logging.ERROR, kind=type(error).__name__)
        forget_frames(error)


def _check_headers(headers: Headers, largest: int) -> None:
    packed = headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        message = f"the body should not be packed, received the content-encoding {excerpt(packed)}"
        raise RefusalError(415, "packed_body", message, column="content-encoding", headers=_CLOSE)
    kind, *options = headers.get("content-type", "application/json").lower().split(";")
    charsets = [option.strip().removeprefix("charset=").strip('"') for option in options if "charset=" in option]
    if kind.strip() != "application/json" or any(charset not in ("utf-8", "utf8") for charset in charsets):
        message = "the content-type should be application/json in UTF-8, received"
        full = f"{message} {excerpt(headers['content-type'])}"
        raise RefusalError(415, "wrong_content_type", full, column="content-type", headers=_CLOSE)
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > largest):
        raise _too_large(largest, length[:20])


def _too_large(largest: int, received: str) -> RefusalError:
    message = f"the body should have at most {largest:,} bytes, received {received}"
    return RefusalError(413, "too_large", message, column="body", headers=_CLOSE)
