"""uvicorn's protocol without what a parser of its kind gets wrong: upgrades, bytes that are no HTTP, deaf clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["Flow", "ParsingProtocol", "body_bytes"]

_UNREADABLE = "Invalid HTTP request received."
_PIPELINED = 32  # requests that wait for answers to those before them; then the parser waits, too
_SLICE = 8 << 10  # bytes between two looks at that
_Headers = Iterable[tuple[bytes, bytes]]


class Flow(FlowControl):
    """Reads on where no request waits and the client takes its answers.

    Attributes:
        waiting: requests that came before the answer to the one before them, and bytes that nobody read.
    """

    waiting = 0

    def resume_reading(self) -> None:
        """Read on, unless there is a reason not to."""
        if not (self.waiting or self.write_paused):
            super().resume_reading()


class ParsingProtocol(HttpToolsProtocol):
    """Serves requests that offer an upgrade as they are, and gives every answer before the end of a connection.

    The parser takes the body of a request with `Upgrade` for another protocol, and would read messages in it. What it
    cannot read ends the connection, but not before the answers to what came before. From a client that does not read
    its answers nothing is read either; the system ends it after a while (see `run`).
    """

    flow: Flow

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._answering: RequestResponseCycle | None = None  # `cycle` is the newest, which may wait for this one
        self._at_rest = True  # between two messages
        self._in_head = False
        self._begun = False  # whether the application has the head of the newest message
        self._deaf = False  # whether what comes is passed over
        self._later = b""  # for the parser, when fewer requests wait
        self._unparsed = 0  # bytes of a body to come that the parser does not know of

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the application know, whichever request it answers, and keep nothing of the others."""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        for cycle, _ in self.pipeline:
            cycle.on_response = _nothing  # else they hold the connection, and it holds them
        self.pipeline.clear()
        self._later = b""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Give a client that sends no more the answers that it waits for; then close."""
        return self._at_rest and self._end_with_last()

    def on_message_begin(self) -> None:
        """Begin with the head of a message."""
        super().on_message_begin()
        self._at_rest = self._begun = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one behind a body, where no proxy looks, says nothing.

        Args:
            name: as it was sent.
            value: as it was sent.
        """
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let a request in, or have it wait for the answer to the one before."""
        super().on_headers_complete()
        self._begun = True
        self._count_waiting()

    def on_response_complete(self) -> None:
        """Begin with the next request that waits, if there is one, and read on if it is the last."""
        super().on_response_complete()
        self._count_waiting()
        if self._later and not self.pipeline:
            self.loop.call_soon(self._go_on)
        self._read_on()

    def _count_waiting(self) -> None:
        self.flow.waiting = len(self.pipeline) + bool(self._later)

    def _go_on(self) -> None:
        """Read what came behind requests that waited."""
        later, self._later = self._later, b""
        self._count_waiting()
        if later and not self.transport.is_closing():
            self.data_received(later)

    def pause_writing(self) -> None:
        """Read no more."""
        super().pause_writing()
        if not self.transport.is_closing():
            self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read again, unless a request waits for the answer to the former one."""
        super().resume_writing()
        self._read_on()

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _feed(self, data: bytes) -> bool:
        """Have the parser read, and say whether it can go on; a body behind `Upgrade` goes past it."""
        while data and not self._deaf:
            if self._unparsed:
                body, data = data[: self._unparsed], data[self._unparsed :]
                self._unparsed -= len(body)
                self.on_body(body)
                if not self._unparsed:
                    self.on_message_complete()
                continue
            if len(self.pipeline) >= _PIPELINED:
                self._later = data
                self._count_waiting()
                break
            piece = data[:_SLICE]  # all of it, mostly
            try:
                self.parser.feed_data(piece)
                data = data[_SLICE:]
            except HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            except HttpParserError:
                self._end_unreadable()
        return not self._deaf

    def _pass_upgrade(self) -> None:
        """Find how much of a body the parser does not know of; where that cannot be told, nothing more is read."""
        if self.parser.should_upgrade():
            size = body_bytes(self.headers)
            self._unparsed = size or 0
            self._deaf = self._deaf or size is None

    def _end_with_last(self) -> bool:
        """End the connection behind the answer that is under way, or the last that waits, if there is one."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        self._deaf = True
        return True

    def _end_unreadable(self) -> None:
        """End with what cannot be read."""
        self._deaf = True
        begun = self._begun and not self._at_rest  # the application has its head
        if begun and self.pipeline:
            self.pipeline.popleft()
            assert self._answering is not None
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answering
            begun = False
        if begun and self.cycle.response_started:  # a second answer would be taken for that to another request
            self.transport.close()
        elif begun or not self._end_with_last():
            self.send_400_response(_UNREADABLE)


def _nothing() -> None:
    """Stand for what is to be called no more."""


def body_bytes(headers: _Headers) -> int | None:
    """Return the bytes of the body that follows a head, or None where it is sent in pieces.

    Args:
        headers: names in small letters.

    Example:
        >>> body_bytes([(b"host", b"h"), (b"content-length", b"12")]), body_bytes([])
        (12, 0)
        >>> body_bytes([(b"transfer-encoding", b"chunked")])
    """
    size = 0
    for name, value in headers:
        if name == b"content-length":
            size = int(value)  # the parser takes digits alone
        elif name == b"transfer-encoding":
            return None
    return size
