"""What a connection may take of the service's memory and files: not more than its share, and nothing once it ended."""

from __future__ import annotations

import gc
import socket
import struct
import time
from pathlib import Path

import pytest
from tests.serving.http.processes import wait_for
from tests.serving.http.test_overload import BODY, LARGE, held_scoring
from tests.serving.http.test_parsing import LIVE, running
from tests.serving.http.test_shedding import Running, read, request
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from funnelcast.serving.http.protocol import GuardedProtocol
from funnelcast.serving.http.service import Service
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.variants import Variants

__all__ = ["running"]  # a fixture of another file


def chunked(*fields: str, key: str = "") -> bytes:
    head = f"POST /v1/score HTTP/1.1\r\nhost: h\r\n{key}transfer-encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY) + "".join(f"{one}\r\n" for one in fields).encode()


def test_headers_behind_a_body_say_nothing(first: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-sixteen-or-more\n")
    given = Settings.model_validate({"score_keys": tmp_path / "keys"})
    key = "x-api-key: a-key-of-sixteen-or-more"
    with Running(Service(Variants.load([first], given), given), given) as running:
        with running.open() as client:
            client.sendall(chunked(key, ""))
            assert read(client)[0] == 401
        with running.open() as client:
            client.sendall(chunked("x-deadline-ms: no", "x-request-id: x", "", key=f"{key}\r\n"))
            status, headers, _ = read(client)
            assert status == 200 and headers["x-request-id"] != "x"


@pytest.mark.parametrize("line", [b"a:\r\n", b"a: " + b"x" * 1000 + b"\r\n", b"x" * 1000])
@pytest.mark.parametrize("path", [b"/v1/score", b"/livez"])
def test_headers_behind_a_body_end(running: Running, line: bytes, path: bytes) -> None:
    with running.open() as client:
        client.sendall(chunked().replace(b"/v1/score", path))
        with pytest.raises(OSError):  # the end comes long before the time for a body is over
            for _ in range(100):
                client.sendall(line * (1_000_000 // len(line)))
                time.sleep(0.01)


def test_few_requests_wait_for_answers_to_others(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.open() as client:
        with held_scoring(monkeypatch):
            before = connections()
            client.sendall(request(LARGE) + LIVE * 5000 + request(BODY) + LIVE)
            wait_for(lambda: connections() > before + 32)
            time.sleep(0.2)  # the service has had time for all of them
            assert connections() < before + 600  # the others are bytes
        assert ["reach" in read(client)[2] for _ in range(5003)] == [True, *[False] * 5000, True, False]


def connections() -> int:
    """Count connections in memory, and what waits on them."""
    return sum(issubclass(type(one), GuardedProtocol | RequestResponseCycle) for one in gc.get_objects())


@pytest.mark.parametrize("reset", [False, True])
def test_nothing_of_a_connection_stays(running: Running, reset: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        before = connections()
        for _ in range(10):
            client = running.open()
            client.sendall(request(LARGE) + LIVE * 5)
            read(client)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        wait_for(lambda: connections() <= before, 5)
    finally:
        gc.enable()


def test_a_crowd_beyond_the_limit_takes_no_files(first: Path) -> None:
    given = Settings.model_validate({"server": {"connections": 5}})
    with Running(Service(Variants.load([first], given), given), given) as running:
        crowd = [running.open() for _ in range(100)]
        wait_for(lambda: sum(map(is_closed, crowd)) == 100 - 5 - 1 - 32)
        for client in crowd:
            client.close()
        wait_for(lambda: answers(running))


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def answers(running: Running) -> bool:
    with running.open() as client:
        client.sendall(LIVE)
        return client.recv(100).startswith(b"HTTP/1.1 200 ")
