"""`funnelcast serve` as a process that benchmarks start, look at and end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil


def wait_for(holds: Callable[[], bool], seconds: float = 60.0, every: float = 0.005) -> float:
    """Wait until something holds and return the seconds that it took."""
    started = time.perf_counter()
    while not holds():
        if time.perf_counter() - started > seconds:
            raise RuntimeError(f"it did not come to hold in {seconds:g} s")
        time.sleep(every)
    return time.perf_counter() - started


class Served:
    """A service that is ready.

    Args:
        folders: bundles or registries.
        workers: processes.
        settings: TOML of more settings.

    Attributes:
        port: that it listens on.
        process: the parent of the workers, or the one process.
        ready_seconds: from the start of the process to ready.
    """

    def __init__(self, *folders: Path, workers: int = 1, settings: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        self._read, self._events = 0, Counter[str]()
        config = Path(self._folder.name) / "serve.toml"
        config.write_text(settings)
        words = [sys.executable, "-m", "funnelcast", "serve", *map(str, folders), "--config", str(config)]
        started = time.perf_counter()
        with self._log.open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            words += ["--port", "0", "--workers", str(workers)]
            self.process = subprocess.Popen(words, stderr=log, env=environment)
        wait_for(lambda: self.events("listening") > 0 or self.process.poll() is not None)
        lines = [line for line in self._log.read_text().splitlines() if '"listening"' in line]
        if not lines:
            raise RuntimeError(f"the service did not start: {self._log.read_text()}")
        self.port: int = json.loads(lines[0])["port"]
        wait_for(lambda: self.ready() and self.events("ready") >= workers)
        self.ready_seconds = time.perf_counter() - started

    def events(self, name: str) -> int:
        """Count lines of the log; each is read once, since a service under load writes many."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            found, line_end, _ = log.read().rpartition(b"\n")
        self._read += len(found) + len(line_end)
        self._events.update(re.findall(r'"event": ?"(\w+)"', found.decode()))
        return self._events[name]

    def ask(self, path: str, body: str | None = None, timeout: float = 10.0) -> tuple[int, bytes]:
        """Ask on a new connection; status 0 where that fails."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET" if body is None else "POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def ready(self) -> bool:
        """Say whether it answers that it is ready."""
        return self.ask("/readyz", timeout=1.0)[0] == 200

    def workers(self) -> list[psutil.Process]:
        """Return the processes that score."""
        parent = psutil.Process(self.process.pid)
        children = [one for one in parent.children() if "spawn_main" in " ".join(one.cmdline())]
        return children or [parent]

    def resident(self) -> float:
        """Return megabytes of memory of all workers."""
        return float(sum(one.memory_info().rss for one in self.workers()) / 1e6)

    def stop(self) -> float:
        """Send SIGTERM, wait, and return the seconds that the end took."""
        started = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return time.perf_counter() - started

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()
