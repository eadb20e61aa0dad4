"""uvicorn's protocol without what a parser of its kind gets wrong: upgrades, bytes that are no HTTP, deaf clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["ParsingProtocol", "body_bytes"]

_UNREADABLE = "Invalid HTTP request received."
_Headers = Iterable[tuple[bytes, bytes]]


class ParsingProtocol(HttpToolsProtocol):
    """Serves requests that offer an upgrade as they are, and gives every answer before the end of a connection.

    The parser takes the body of a request with `Upgrade` for another protocol, and would read messages in it. What it
    cannot read ends the connection, but not before the answers to what came before. From a client that does not read
    its answers nothing is read either; the system ends it after a while (see `run`).
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._answering: RequestResponseCycle | None = None  # `cycle` is the newest, which may wait for this one
        self._at_rest = True  # between two messages
        self._in_head = False
        self._deaf = False  # whether what comes is passed over
        self._unparsed = 0  # bytes of a body to come that the parser does not know of

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the application know, whichever request it answers."""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin with the head of a message."""
        super().on_message_begin()
        self._at_rest = False

    def on_response_complete(self) -> None:
        """Begin with the next request that waits, if there is one."""
        super().on_response_complete()
        if self.flow.write_paused and not self.transport.is_closing():
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """Read no more."""
        super().pause_writing()
        if not self.transport.is_closing():
            self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read again, unless a request waits for the answer to the former one."""
        super().resume_writing()
        if not self.pipeline and not self.transport.is_closing():
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
            try:
                self.parser.feed_data(data)
                break
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
        begun = self._has_begun()
        if begun and self.pipeline:
            self.pipeline.popleft()
            assert self._answering is not None
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answering
            begun = False
        if begun or not self._end_with_last():
            self.send_400_response(_UNREADABLE)

    def _has_begun(self) -> bool:
        """Say whether the application has the head of the message that cannot be read on."""
        return not (self._in_head or self._at_rest)


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
