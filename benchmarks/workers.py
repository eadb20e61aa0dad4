"""Variants in processes of their own, taking turns: what differs may be the environment in which torch is loaded."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any


class Worker:
    """A process that reads a word a line and answers each with a JSON value.

    Args:
        module: run with `python -m`; it answers through `serve`.
        arguments: its arguments.
        environment: what is set besides this process's environment.
        python: the interpreter; None for this one.
        log: takes what it writes to stderr; None for this process's stderr.
    """

    def __init__(
        self,
        module: str,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        python: Path | None = None,
        log: IO[str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-m", module, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def ask(self, word: str) -> Any:
        """Send a word and wait for the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the worker ended with {self._process.wait()} while it should answer '{word}': {self._process.args!r}"
            )
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended before; `ask` has said so
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def serve(answers: Mapping[str, Any], out: IO[str] = sys.stdout) -> None:
    """Answer each word on stdin by calling what stands for it."""
    for line in sys.stdin:
        out.write(json.dumps(answers[line.strip()]()) + "\n")
        out.flush()


def peak_bytes(work: Any) -> int:
    """Run something and return by how much it raised this process's memory at most (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes the present size
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Read an entry of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
