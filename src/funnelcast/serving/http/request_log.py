"""A line of the log for every request, written together with those of the same moment."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from funnelcast.serving.http.measure import is_logged, log_text

__all__ = ["RequestLog"]

_EVERY = 0.2  # seconds that a line may wait
_BYTES = 1 << 16  # of lines that wait
_ENCODE = msgspec.json.Encoder().encode


class RequestLog:
    """Keeps lines for a moment, since a write a line costs as much as scoring a row; lives in the event loop."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, status: int, **said: Any) -> None:
        """Note a request; a failure of ours is written at once.

        Args:
            status: of HTTP.
            said: what else the line says, without feature values.
        """
        if not is_logged(logging.INFO):
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = _ENCODE({"time": time, "level": "info", "event": "request", "status": status, **said})
        self._lines.append(line)
        self._bytes += len(line)
        if status >= 500 or self._bytes >= _BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            log_text(b"\n".join(self._lines).decode())
        self._lines, self._bytes = [], 0
