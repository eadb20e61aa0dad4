"""The head of an answer in one write with its body: a write wakes the client, and twice costs as much as a score."""

from __future__ import annotations

import asyncio

__all__ = ["JoinedWrites"]

_HEAD, _CONTINUE = b"HTTP/1.1 ", b"HTTP/1.1 100"


class JoinedWrites:
    """The part of a transport that uvicorn answers with; holds a head back until more comes or the answer ends.

    Args:
        transport: what is written to.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._held = transport, b""

    def write(self, data: bytes) -> None:
        """Write, or hold a head back; `100 Continue` is what a client waits for.

        Args:
            data: a head, or a part of a body.
        """
        if not self._held and data.startswith(_HEAD) and not data.startswith(_CONTINUE):
            self._held = data
        else:
            self._pass_on(self._held + data)
            self._held = b""

    def flush(self) -> None:
        """Write a head that no body followed."""
        if self._held:
            self._pass_on(self._held)
            self._held = b""

    def _pass_on(self, data: bytes) -> None:
        if not self._transport.is_closing():  # uvicorn tells only the last of several requests that the client is gone
            self._transport.write(data)

    def close(self) -> None:
        """Close behind what was written."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Say whether it is closed, or will be."""
        return self._transport.is_closing()
