"""Connections that do not wait for a client for ever, and that refuse what is too much at once."""

from __future__ import annotations

import asyncio
from typing import Any

from funnelcast.serving.http.admission import GATHERED
from funnelcast.serving.http.door import Door, is_scoring
from funnelcast.serving.http.joined import JoinedWrites
from funnelcast.serving.http.paced import spread
from funnelcast.serving.http.parsing import Flow, ParsingProtocol, body_bytes

__all__ = ["GuardedProtocol"]

_HEAD_BYTES = 64 << 10
_CROWD = 32  # connections beyond the limit that get an answer; the rest would take the files of the logs
_GATHERED = 32 << 10  # bytes of a body that is gathered here; the application sees such a request when it is complete
_PASSED_OVER = 64 << 10  # bytes of a refused body after which the connection is of no more use
_NO_HOST = ("localhost", None)  # stands in the URL of a request without a Host header
_LINGER = 1.0  # seconds for the rest of a refused body; closing at once would take the answer from the client
_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(ParsingProtocol):
    """Closes a connection whose request has no complete head in time, or a head that is too large.

    A request for scores that comes while all places are taken is answered 429 when its head is complete, before the
    application sees it. Its body is passed over; the connection is kept if the body is short. The application sees
    requests for scores with short bodies when these are complete: clients that are slow, or never end, cost it nothing.

    Args:
        head_seconds: a client has for the head of a request, from the connection or the head's first byte on.
        body_seconds: a client has for a short body.
        given: what uvicorn hands over.
    """

    def __init__(self, *, head_seconds: float, body_seconds: float, **given: Any) -> None:
        super().__init__(**given)
        self._head_seconds, self._body_seconds = head_seconds, body_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._chunk, self._messages = 0, 0  # bytes that came last, and how many messages they are of until now
        self._grew, self._idle_bytes = False, 0  # of a body: whether it has more by these, and bytes that brought none
        self._door: Door | None = self.app_state.get("door")
        self._refused, self._kept = False, True
        self._parts: list[bytes] | None = None  # of a body that is gathered
        self._last = False  # whether the service ends with the request whose body is gathered
        self._awake = False  # whether a request came since the timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head; uvicorn's own asks the system for addresses, which only a missing Host needs."""
        self.connections.add(self)
        self.server = _NO_HOST
        self.transport, self.flow = transport, Flow(transport)
        self.scheme = "https" if self.config.is_ssl else "http"
        self._joined = JoinedWrites(transport)
        self._in_head = True
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency + _CROWD:
            transport.abort()
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head, and wait for what is not complete yet."""
        if self._deaf or (self._at_rest and self._passes_over(data)):
            return
        self._unset_keepalive_if_required()
        self._chunk, self._messages = len(data), 0 if self._at_rest else 1
        self._grew = False
        if not self._feed(data) or self._later or (not (self._in_head or self._at_rest) and self._is_endless()):
            return
        if self._in_head:
            self._head_bytes += len(data) if self._messages == 1 else 0  # else these are bytes of others, too
            if self._head_bytes > _HEAD_BYTES:
                self._end(_LARGE)
            elif self._timer is None and not self.transport.is_closing():
                self._wait_for_head()
        elif self._timer is None and not self.transport.is_closing():
            if self._refused:
                self._timer = self.loop.call_later(_LINGER, self.transport.close)
            elif self._parts is not None:
                self._timer = self.loop.call_later(spread(self._body_seconds), self._end_body)
            elif self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
                # Bytes that begin no request, or the rest of an answered one; further ones do not lengthen the time.
                self._timer = self.loop.call_later(spread(self._head_seconds), self.transport.close)

    def on_message_begin(self) -> None:
        """Begin with the head of a further request."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._refused = self._awake = False
        self._idle_bytes = 0
        self._messages += 1
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Wait no more, and let the request in if there is a place."""
        self._in_head = False
        self._disarm()
        over, door = self._deaf or self.transport.is_closing(), self._door  # by what came before in the same bytes
        self._pass_upgrade()
        if over:
            self._refused, self._kept = True, False
        elif self._head_bytes + self._chunk > _HEAD_BYTES and self._is_large():
            self._refused, self._kept = True, False
            self._end(_LARGE)
        elif door is None or not is_scoring(self.parser.get_method(), self.url):
            self._let_in()
        elif door.full and self._may_refuse():
            self._refuse(door)
        elif self._is_short(_GATHERED):
            self._parts = []
        else:
            self._let_in()
            door.admit(self.loop)

    def on_response_complete(self) -> None:
        """Write what is held back of an answer that is complete."""
        self._joined.flush()
        super().on_response_complete()
        if self._parts is not None:  # the next request is on its way, and has a time limit of its own
            self._unset_keepalive_if_required()

    def on_body(self, body: bytes) -> None:
        """Gather a body, or pass that of a refused request over."""
        self._grew = True
        if self._parts is not None:
            self._parts.append(body)
        elif not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Let a request in whose body was gathered, or end with a refused one."""
        if self._unparsed:  # only for the parser it is complete
            return
        self._at_rest = True
        if self._parts is not None:
            self._take_gathered()
        if not self._refused:
            super().on_message_complete()
            return
        self._refused = False
        self._disarm()
        if self._deaf:
            return
        if self._kept:
            self.server_state.total_requests += 1
            self._rest()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """End with the request that is under way, if there is one."""
        if self._parts is None:
            super().shutdown()
        else:
            self._last = True

    def _take_gathered(self) -> None:
        """Let a request in with its whole body, if there is still a place."""
        door, body = self._door, b"".join(self._parts or ())
        self._parts = None
        self._disarm()
        assert door is not None
        if door.full and self._may_refuse():
            self._refuse(door)
            self._kept = self._kept and not self._last
            return
        self.scope["state"][GATHERED] = True
        self._let_in()
        door.admit(self.loop)
        self.cycle.keep_alive = self.cycle.keep_alive and not self._last
        super().on_body(body)

    def _end_body(self) -> None:
        door, self._timer = self._door, None
        assert door is not None and self._parts is not None
        if self._end_with_last():
            return
        received = sum(map(len, self._parts))
        more = self.server_state.default_headers
        self._end(door.refuse_slow(self.url, self.headers, more, self._body_seconds, received))

    def _let_in(self) -> None:
        super().on_headers_complete()
        if self._deaf:
            self.cycle.keep_alive = False
        self.cycle.transport = self._joined  # type: ignore[assignment]  # before its task begins

    def timeout_keep_alive_handler(self) -> None:
        """Wait once more where requests were refused meanwhile."""
        if self._awake:
            self._rest()
        else:
            super().timeout_keep_alive_handler()

    def _rest(self) -> None:
        """Wait for a further request."""
        self._awake = False
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _passes_over(self, data: bytes) -> bool:
        """Refuse a usual request, if there is no place; say whether that was done."""
        door, answered = self._door, self.cycle is None or self.cycle.response_complete
        if door is None or not door.full or not answered or self.transport.is_closing():
            return False
        answer = door.refuse_plain(data, self.server_state.default_headers)
        if answer is None:
            return False
        self.transport.write(answer)
        self.server_state.total_requests += 1
        self._awake = True  # cheaper than a new timer
        if self.timeout_keep_alive_task is None:
            self._rest()
            self._in_head = False
            self._disarm()
        return True

    def _may_refuse(self) -> bool:
        """Say whether nothing may come before the answer: not while an answer to a former request is under way."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.parser.should_upgrade() and not self.transport.is_closing()

    def _refuse(self, door: Door) -> None:
        http_1_0 = self.parser.get_http_version() == "1.0"
        self._kept = self._is_short(_PASSED_OVER) and self.parser.should_keep_alive() and not http_1_0
        self._refused = True
        more = self.server_state.default_headers
        self.transport.write(door.refuse(self.url, self.headers, more, close=not self._kept))

    def _is_short(self, most: int) -> bool:
        """Say whether a body of at most so many bytes follows, or none."""
        size = body_bytes(self.headers)
        return size is not None and size <= most and all(name != b"expect" for name, _ in self.headers)

    def _is_large(self) -> bool:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _HEAD_BYTES

    def _is_endless(self) -> bool:
        """End a request whose body goes on without a byte of it: with headers behind it, or words about its pieces."""
        self._idle_bytes = 0 if self._grew else self._idle_bytes + self._chunk
        if self._idle_bytes <= _HEAD_BYTES:
            return False
        self._end_unreadable()
        return True

    def _end_unreadable(self) -> None:
        self._disarm()
        if self._refused:  # its answer was sent, or is not due: the answer to a former one is on its way
            self._deaf = True
            if not self._end_with_last():
                self.transport.close()
        else:
            super()._end_unreadable()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(spread(self._head_seconds), self._end_head)

    def _end_head(self) -> None:
        """Close; who has sent nothing gets no answer, which might be taken for that to a request on its way."""
        if self._at_rest:
            self._timer = None
            self.transport.close()
        else:
            self._end(_SLOW)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, answer: bytes) -> None:
        self._disarm()
        # An answer to a former request may still be under way; nothing may come between its parts.
        if not self.transport.is_closing() and not self._end_with_last():
            self.transport.write(answer)
            self.transport.close()
