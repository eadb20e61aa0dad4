"""Short bodies are gathered before the application sees a request: slow clients take no place."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.http.processes import wait_for
from tests.serving.http.test_overload import BODY, LARGE, held_scoring
from tests.serving.http.test_shedding import Running, closes, read, request

from funnelcast.serving.http import protocol
from funnelcast.serving.http.service import Service
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.variants import Variants


@pytest.fixture
def running(first: Path) -> Iterator[Running]:
    settings = Settings.model_validate(
        {"limits": {"waiting": 2, "deadline_ms": 60_000}, "server": {"body_seconds": 0.6}}
    )
    with Running(Service(Variants.load([first], settings), settings), settings) as running:
        yield running


def parts_of(sent: bytes, *places: int) -> list[bytes]:
    ends = [*places, len(sent)]
    return [sent[a:b] for a, b in zip([0, *places], ends, strict=True)]


def send(client: socket.socket, sent: bytes, *places: int) -> None:
    """Send in parts, each in a packet of its own."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts_of(sent, *places):
        client.sendall(part)
        time.sleep(0.02)


def test_half_bodies_take_no_place(running: Running) -> None:
    sent = request(BODY)
    slow = [running.open() for _ in range(10)]
    for client in slow:
        client.sendall(sent[:-5])
    with running.open() as client:
        client.sendall(sent)
        assert read(client)[0] == 200
    for client in slow:
        client.sendall(sent[-5:])
        assert read(client)[0] == 200
        client.close()


@pytest.mark.parametrize("size", [len(BODY), protocol._GATHERED, protocol._GATHERED + 1])
def test_a_body_may_come_in_parts(running: Running, size: int) -> None:
    sent = request(BODY.ljust(size))
    with running.open() as client:
        for _ in range(2):
            send(client, sent, 10, len(sent) - size, len(sent) - size + 1, len(sent) - 1)
            status, _, said = read(client)
            assert (status, said["rows"]) == (200, 1)


def test_requests_may_come_together(running: Running) -> None:
    with running.open() as client:
        ids = ("one", "two", "three")
        client.sendall(b"".join(request(BODY, "/v1/score", f"x-request-id: {one}") for one in ids))
        answers = [read(client) for _ in ids]
    assert [headers["x-request-id"] for _, headers, _ in answers] == [*ids]
    # The second and third came while the first had no answer yet: nothing may come before it, so they wait.
    assert [status for status, _, _ in answers] == [200, 200, 200]


def test_a_body_that_does_not_end_is_408_counted_and_logged(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with running.open() as client, caplog.at_level("INFO", "funnelcast.serve"):
        started = time.monotonic()
        client.sendall(request(BODY, "/v1/score", "x-request-id: slow")[: 7 - len(BODY)])
        status, headers, said = read(client)
        assert (status, headers["connection"], headers["x-request-id"]) == (408, "close", "slow")
        assert said["request_id"] == "slow"
        assert (said["error"]["code"], said["error"]["column"]) == ("slow_body", "body")
        assert said["error"]["message"] == "the body should be complete within 0.6 s, received 7 bytes"
        assert closes(client) and 0.5 < time.monotonic() - started < 5
        with running.open() as other:
            other.sendall(request(b"12345", "/v2/models/first/infer")[:-2])
            status, _, said = read(other)
            assert (status, said["code"]) == (408, "slow_body") and said["error"].endswith("received 3 bytes")
        wait_for(lambda: caplog.text.count('"code":"slow_body"') == 2)
    text = running.service.metrics.text().decode()
    assert 'funnelcast_requests_total{route="/v1/score",status="408"} 1.0' in text
    assert 'funnelcast_requests_total{route="/v2/.../infer",status="408"} 1.0' in text


def test_places_may_be_taken_while_a_body_comes(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"limits": {"waiting": 1, "deadline_ms": 60_000}})
    service = Service(Variants.load([first], settings), settings)
    sent = request(BODY)
    with (
        Running(service, settings) as running,
        held_scoring(monkeypatch) as go,
        running.open() as slow,
        running.open() as held,
    ):
        slow.sendall(sent[:-5])
        time.sleep(0.1)
        held.sendall(request(LARGE))
        wait_for(lambda: service.admission.inside == 1)
        slow.sendall(sent[-5:])
        status, headers, _ = read(slow)
        assert status == 429 and "connection" not in headers
        go.set()
        assert read(held)[0] == 200
        slow.sendall(sent)  # the connection is kept
        assert read(slow)[0] == 200


def test_an_answer_under_way_is_not_dropped_for_a_body_that_does_not_come(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate({"limits": {"deadline_ms": 60_000}, "server": {"body_seconds": 0.2}})
    with (
        Running(Service(Variants.load([first], settings), settings), settings) as running,
        held_scoring(monkeypatch) as go,
        running.open() as client,
    ):
        client.sendall(request(LARGE) + request(BODY)[:-5])
        time.sleep(0.6)
        go.set()
        status, headers, said = read(client)
        assert (status, headers["connection"], said["rows"]) == (200, "close", 200)
        assert closes(client)


@pytest.mark.parametrize(
    ("sent", "more"),
    [
        (request(b"", "/livez", method="GET"), b"\r\n"),
        (request(b"x" * 100, "/livez", method="GET")[:-99], b"x"),
    ],
    ids=["blank lines", "rest of a body"],
)
def test_bytes_that_begin_no_request_hold_no_connection(first: Path, sent: bytes, more: bytes) -> None:
    settings = Settings.model_validate({"server": {"header_seconds": 0.3, "keep_alive_seconds": 1}})
    with Running(Service(Variants.load([first], settings), settings), settings) as running, running.open() as client:
        client.sendall(sent)
        assert read(client)[0] == 200
        started = time.monotonic()
        client.settimeout(0.1)
        closed = False
        while not closed and time.monotonic() - started < 10:
            try:
                client.sendall(more)
                closed = client.recv(10) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed


def test_a_request_that_is_coming_at_the_end_is_answered(running: Running) -> None:
    sent = request(BODY)
    with running.open() as idle, running.open() as slow:
        slow.sendall(sent[:-5])
        time.sleep(0.1)
        running.stop()
        assert closes(idle)
        slow.sendall(sent[-5:])
        status, headers, _ = read(slow)
        assert (status, headers["connection"]) == (200, "close")
        assert closes(slow)
