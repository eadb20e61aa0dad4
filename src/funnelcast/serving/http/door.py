"""Where a request comes to first: while all places are taken, scoring is refused as soon as its head is read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence

from funnelcast.serving.http.admission import Admission
from funnelcast.serving.http.answer import encode_json
from funnelcast.serving.http.measure import Metrics
from funnelcast.serving.http.refusal import new_request_id, overloaded, refusal_body, request_id_of, slow_body
from funnelcast.serving.http.request_log import RequestLog
from funnelcast.serving.http.shedding import Shedding

__all__ = ["Door", "is_scoring"]

_SCORE, _INFER = "/v1/score", "/v2/.../infer"
_STATUS = b"HTTP/1.1 429 Too Many Requests\r\n"
_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_PLAIN = b"POST /v1/score HTTP/1.1\r\n"
_NOT_PLAIN = (b"transfer-encoding", b"expect", b"upgrade", b"close")
_LINES = re.compile(rb"(?:[\w!#$%&'*+.^`|~-]+: [\t\x20-\x7e\x80-\xff]*\r\n)+\r\n", re.ASCII)
_ID = "id of the request"
_KNOWN, _KNOWN_BYTES = 1024, 1024  # heads that are kept, and of what length; most clients send the same ones again
_Headers = Iterable[tuple[bytes, bytes]]


class Door:
    """Says 429 without the cost of an application.

    Args:
        admission: whose places are taken.
        shedding: counts what is refused.
        metrics: of the service.
        log: of requests.
    """

    def __init__(self, admission: Admission, shedding: Shedding, metrics: Metrics, log: RequestLog) -> None:
        self._admission, self._shedding, self._metrics, self._log = admission, shedding, metrics, log
        refusal = overloaded()
        self._head = b"content-type: application/json\r\n"
        self._head += b"".join(f"{name}: {value}\r\n".encode() for name, value in refusal.headers.items())
        self._more: _Headers | None = None
        self._first = b""
        self._bodies = {route: _around_id(refusal_body(refusal, _ID, route)) for route in (_SCORE, _INFER)}
        self._known: dict[bytes, tuple[int, bytes]] = {}  # head of a usual request -> length of its body, id

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return self._admission.full

    def admit(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count a request whose task was just made, until this has run and counts for itself.

        Args:
            loop: that runs it.
        """
        self._admission.coming += 1
        loop.call_soon(self._came)

    def _came(self) -> None:
        self._admission.coming -= 1

    def refuse(self, url: bytes, headers: Sequence[tuple[bytes, bytes]], more: _Headers, *, close: bool) -> bytes:
        """Count a request and make its answer.

        Args:
            url: of the request.
            headers: of the request, names in small letters.
            more: headers of the answer.
            close: whether the connection is closed then.
        """
        route = _route(url)
        self._shedding.count(route)
        return self._answer(self._bodies[route], _given_id(headers), more, b"connection: close\r\n" if close else b"")

    def refuse_slow(
        self, url: bytes, headers: Sequence[tuple[bytes, bytes]], more: _Headers, seconds: float, received: int
    ) -> bytes:
        """Count and log a request whose body did not come in time, and make its answer.

        Args:
            url: of the request.
            headers: of the request, names in small letters.
            more: headers of the answer.
            seconds: that its body had.
            received: bytes of it.
        """
        route, refusal = _route(url), slow_body(seconds, received)
        request_id = request_id_of(_given_id(headers).decode("latin-1"))
        self._metrics.requests.labels(route, str(refusal.status)).inc()
        self._log.add(refusal.status, request_id=request_id, route=route, code=refusal.code)
        body = encode_json(refusal_body(refusal, request_id, route))
        lines = [*more, (b"content-type", b"application/json"), (b"connection", b"close")]
        lines += [(b"x-request-id", request_id.encode()), (b"content-length", b"%d" % len(body))]
        return b"".join([_SLOW, *(b"%b: %b\r\n" % line for line in lines), b"\r\n", body])

    def refuse_plain(self, data: bytes, more: _Headers) -> bytes | None:
        """Do the same for the usual request without a parser, which costs most of a refusal.

        Args:
            data: what came on a connection without a request under way.
            more: headers of the answer.

        Returns:
            The answer, if `data` is one complete request and nothing in it could be read in two ways; else None.
        """
        end = data.find(b"\r\n\r\n") + 4
        head = data[:end]
        known = self._known.get(head)
        if known is None:
            known = _length_and_id(head)
            if known is None:
                return None
            if not known[1] and len(head) <= _KNOWN_BYTES:  # a head with an id does not come again
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[head] = known
        length, given = known
        if length != len(data) - end:
            return None
        self._shedding.count(_SCORE)
        return self._answer(self._bodies[_SCORE], given, more, b"")

    def _answer(self, body: tuple[bytes, bytes], given: bytes, more: _Headers, end: bytes) -> bytes:
        request_id = (request_id_of(given.decode("latin-1")) if given else new_request_id()).encode()
        if more is not self._more:  # the server makes them anew each second
            self._more = more
            self._first = b"".join([_STATUS, *(b"%b: %b\r\n" % line for line in more), self._head])
        before, after = body
        length = len(before) + len(request_id) + len(after)
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n%b\r\n%b%b%b" % (
            self._first, request_id, length, end, before, request_id, after
        )  # fmt: skip


def _length_and_id(head: bytes) -> tuple[int, bytes] | None:
    """Read the head of a usual request; None where anything in it could be read in two ways."""
    if not head.startswith(_PLAIN) or not _LINES.fullmatch(head, len(_PLAIN)):
        return None
    small = head[:-2].lower()
    _, _, after = small.partition(b"\r\ncontent-length: ")
    length = after[: after.find(b"\r\n")]
    if not (length.isdigit() and len(length) < 10) or small.count(b"content-length") != 1:
        return None
    if any(word in small for word in _NOT_PLAIN):
        return None
    _, _, given = small.partition(b"\r\nx-request-id: ")
    place = len(small) - len(given)  # as it was sent, not in small letters
    return int(length), head[place : place + given.find(b"\r\n")] if given else b""


def _around_id(said: Mapping[str, object]) -> tuple[bytes, bytes]:
    before, _, after = encode_json(said).partition(_ID.encode())
    return before, after


def _route(url: bytes) -> str:
    return _SCORE if url.startswith(b"/v1") else _INFER


def _given_id(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return next((value for name, value in headers if name == b"x-request-id"), b"")


def is_scoring(method: bytes, url: bytes) -> bool:
    """Say whether a request asks for scores; nothing else is ever refused for lack of room.

    Args:
        method: of HTTP.
        url: of the request.

    Example:
        >>> is_scoring(b"POST", b"/v1/score?strict=1"), is_scoring(b"GET", b"/v2/models/a"), is_scoring(b"POST", b"/v2")
        (True, False, False)
    """
    if method != b"POST":
        return False
    path = url.partition(b"?")[0]
    return path == b"/v1/score" or (path.startswith(b"/v2/models/") and path.endswith(b"/infer"))
