"""The command `funnelcast serve` as a process that tests speak to."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.serving.http.conftest import ROW

HEADERS = {"content-type": "application/json"}


class Process:
    """A service that runs."""

    def __init__(
        self, process: subprocess.Popen[str], port: int, lines: list[dict[str, Any]], tls: ssl.SSLContext | None
    ) -> None:
        self.process, self.port, self.lines, self.tls = process, port, lines, tls

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        if self.tls is not None:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self.tls)
        try:
            connection.request(method, path, body, HEADERS)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def score(self, **more: Any) -> int:
        return self.ask("POST", "/v1/score", json.dumps({"candidates": [ROW], **more}))[0]

    def open(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        client.sendall(data)
        return client

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


def wait_for(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


@contextmanager
def serving(
    folder: Path,
    *words: str,
    text: str = "",
    tls: ssl.SSLContext | None = None,
    start: Sequence[str] = ("-m", "funnelcast"),
) -> Iterator[Process]:
    (folder / "serve.toml").write_text(text)
    command = [
        sys.executable,
        *start,
        "serve",
        *words,
        "--port",
        "0",
        "--config",
        str(folder / "serve.toml"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines: list[dict[str, Any]] = []
    assert process.stderr is not None
    errors = process.stderr
    reader = threading.Thread(target=_collect, args=(errors, lines), daemon=True)
    reader.start()
    try:
        wait_for(lambda: any(line["event"] == "listening" for line in lines) or process.poll() is not None)
        port = next(line["port"] for line in lines if line["event"] == "listening")
        service = Process(process, port, lines, tls)
        wait_for(lambda: _ready(service))
        yield service
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        errors.close()


def _collect(errors: Any, lines: list[dict[str, Any]]) -> None:
    for line in errors:
        lines.append(json.loads(line) if line.startswith("{") else {"event": "no JSON", "line": line})  # noqa: PERF401


def _ready(service: Process) -> bool:
    try:
        return service.ask("GET", "/readyz")[0] == 200
    except OSError:
        return False


def workers(service: Process) -> list[psutil.Process]:
    """Without the process in which Python counts what they share."""
    children = psutil.Process(service.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
