"""`/ab`: the page of the experiment that runs, made aside in a process of low priority and kept for a while."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from funnelcast.serving.http.measure import log_line
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.settings import AbSettings

__all__ = ["AbPage"]

_MODULE = "funnelcast.experiment.live_page"
_REASON = 400  # characters of what the process said before it failed


class AbPage:
    """Keeps the page, and has it made anew by a process of its own when somebody asks and it is old.

    One process runs at a time. While it does, the old page is shown; who comes first waits for it.

    Args:
        settings: how old a page may be, and how long it may take.
        asked: returns what `live_html` reads; called in a thread.
    """

    def __init__(self, settings: AbSettings, asked: Callable[[], dict[str, Any]]) -> None:
        self._settings, self._asked = settings, asked
        self._page: bytes | None = None
        self._next = 0.0  # when the page may be made anew, on the clock of `time.monotonic`
        self._making: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def page(self) -> bytes:
        """Return the page.

        Raises:
            RefusalError: it could not be made, not even once.
        """
        if self._making is None and time.monotonic() >= self._next:
            self._making = asyncio.create_task(self._renew())
        if self._page is None and self._making is not None:
            await asyncio.shield(self._making)
        if self._page is None:
            message = "the page could not be made; the log of the service says why"
            wait = {"retry-after": str(max(1, round(self._next - time.monotonic())))}
            raise RefusalError(503, "no_page", message, headers=wait)
        return self._page

    def close(self) -> None:
        """End the process, if one runs."""
        self._closed, process = True, self._process
        if process is not None:
            process.kill()

    async def _renew(self) -> None:
        try:
            self._page = await asyncio.get_running_loop().run_in_executor(None, self._make)
        except Exception:  # the old page stays; its head says how old it is
            log_line("ab_page_failed", level=logging.ERROR, error=True)
        finally:
            self._next = time.monotonic() + self._settings.age_seconds
            self._making = None

    def _make(self) -> bytes:
        """Run the process, which gets no keys."""
        asked = json.dumps(self._asked()).encode()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELCAST_")}
        command = [sys.executable, "-m", _MODULE]
        pipe = subprocess.PIPE
        # Nothing that a client sends reaches the command.
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:  # noqa: S603
            self._process = process
            if self._closed:
                process.kill()
            try:
                page, errors = process.communicate(asked, self._settings.timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            finally:
                self._process = None
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {errors.decode(errors='replace')[-_REASON:]}")
        return page
