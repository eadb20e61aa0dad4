"""A model's process, seen from the one that measures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from funnelcast.errors import FunnelcastError

__all__ = ["MeasurementError", "ModelProcess"]


class MeasurementError(FunnelcastError):
    """A model could not be measured; the message says why."""


class ModelProcess:
    """A process that measures one model and answers one word at a time; it sleeps in between.

    Args:
        options: for `funnelcast.efficiency.worker`.
        environment: what is set besides this process's environment.
        module: what answers.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        environment: Mapping[str, str],
        module: str = "funnelcast.efficiency.worker",
    ) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed on exit
        self._process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", module, json.dumps(options)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, word: str) -> Any:
        """Send a word and wait for the answer.

        Args:
            word: one that the worker knows.

        Raises:
            MeasurementError: the process could not answer, or has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; there is no answer then
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise MeasurementError(self._end())
        answer = json.loads(line)
        if "error" in answer:
            raise MeasurementError(answer["error"])
        return answer["value"]

    def _end(self) -> str:
        """Say how the process ended."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed by the system, as happens where memory does not suffice"
        self._log.seek(0)
        last = ([line for line in self._log.read().splitlines() if line.strip()] or ["no word"])[-1]
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return f"its process ended {how}: {last.strip()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if error is not None:
            self._process.kill()  # it may be in the middle of a turn that nobody waits for
        self._process.wait()
        self._process.stdout.close()
        self._log.close()
