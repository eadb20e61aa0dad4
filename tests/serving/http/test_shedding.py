"""At the door: what is refused while all places are taken, byte by byte, and what is not."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from tests.serving.http.conftest import ROW
from tests.serving.http.processes import serving, wait_for
from tests.serving.http.test_overload import BODY, LARGE, held_scoring

from funnelcast.serving.http import door as door_module
from funnelcast.serving.http import protocol
from funnelcast.serving.http.admission import Admission
from funnelcast.serving.http.app import create_app
from funnelcast.serving.http.door import Door
from funnelcast.serving.http.measure import Metrics
from funnelcast.serving.http.paced import Paced
from funnelcast.serving.http.request_log import RequestLog
from funnelcast.serving.http.run import _config
from funnelcast.serving.http.service import Service
from funnelcast.serving.http.settings import Limits, Settings
from funnelcast.serving.http.shedding import Shedding
from funnelcast.serving.http.variants import Variants

KEY = "an-admin-key-of-a-test"
INFER = "/v2/models/first/infer"


class Running:
    """A service in a thread of this process, so that a test can hold its scoring."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(_config(create_app(service), settings))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    def __enter__(self) -> Running:
        self._thread.start()
        wait_for(lambda: self.service.ready)
        return self

    def stop(self) -> None:
        """Do what SIGTERM does."""
        self._server.should_exit = True

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()
        self._listener.close()

    def open(self) -> socket.socket:
        return socket.create_connection(self._listener.getsockname(), timeout=20)


def request(body: bytes, path: str = "/v1/score", *headers: str, version: str = "1.1", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: h", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Read one answer, and nothing of the next."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = client.recv(1)
        assert part, head
        head += part
    first, *lines = head.decode().strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    body = b""
    while missing := int(headers["content-length"]) - len(body):
        body += client.recv(missing)
    return int(first.split()[1]), headers, json.loads(body)


def closes(client: socket.socket) -> bool:
    client.settimeout(5)
    return client.recv(10) == b""


@pytest.fixture
def full(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Two places, both taken by requests that are held."""
    (tmp_path / "keys").write_text(f"{KEY}\n")
    limits = {"waiting": 2, "deadline_ms": 60_000}
    settings = Settings.model_validate({"limits": limits, "admin_keys": tmp_path / "keys"})
    service = Service(Variants.load([first], settings), settings)
    with Running(service, settings) as running, held_scoring(monkeypatch) as go:
        held = [running.open() for _ in range(2)]
        for client in held:
            client.sendall(request(LARGE))
        wait_for(lambda: service.admission.inside == 2)
        yield running
        go.set()
        for client in held:
            assert read(client)[0] == 200
            client.close()
        wait_for(lambda: service.admission.inside == service.admission.coming == service.admission.held == 0)


def test_scoring_is_refused_and_the_connection_goes_on(full: Running) -> None:
    with full.open() as client:
        for given in ("mine", "not mine"):
            client.sendall(request(BODY, "/v1/score", f"X-Request-Id: {given}"))
            status, headers, said = read(client)
            assert (status, headers["retry-after"], headers["content-type"]) == (429, "1", "application/json")
            assert said["error"]["code"] == "overloaded" and "date" in headers and "connection" not in headers
            assert said["request_id"] == headers["x-request-id"]
            assert (said["request_id"] == "mine") is (given == "mine")
        client.sendall(request(b"{}", f"{INFER}?x=1"))
        status, _, said = read(client)
        assert (status, said["code"], said["error"]) == (429, "overloaded", "all places are taken; try again later")
        client.sendall(request(BODY, "/v1/score?strict=true")[:-20])  # the rest of a body comes late
        assert read(client)[0] == 429
        client.sendall(BODY[-20:] + request(b"", "/livez", method="GET"))
        assert read(client)[::2] == (200, {"live": True})
        client.sendall(request(b"", "/metrics", "connection: close", method="GET"))  # before the second is over
        text = b"".join(iter(lambda: client.recv(1 << 16), b"")).decode()
    assert 'funnelcast_requests_total{route="/v1/score",status="429"} 3.0' in text
    assert 'funnelcast_requests_total{route="/v2/.../infer",status="429"} 1.0' in text
    assert "funnelcast_shed_requests_total 4.0" in text


@pytest.fixture
def door() -> Door:
    metrics = Metrics()
    shedding = Mock(spec=Shedding)  # which needs a loop
    admission = Admission(Limits(), 1, 5.0, Paced(lambda _: [], lambda: 1))
    return Door(admission, shedding, metrics, RequestLog())


def test_the_quick_way_gives_the_answer_of_the_parser(door: Door) -> None:
    given, date = "A-Client.1", [(b"date", b"now")]
    quick = door.refuse_plain(request(BODY, "/v1/score", f"X-Request-ID: {given}"), date)
    slow = door.refuse(b"/v1/score", [(b"x-request-id", given.encode())], date, close=False)
    assert quick == slow and b"x-request-id: A-Client.1\r\n" in slow and b"\r\ndate: now\r\n" in slow
    for odd in ("a\u00e9", "a b", "", "x" * 65):
        answer = door.refuse_plain(request(BODY, "/v1/score", f"x-request-id: {odd}"), date)
        assert answer is not None and f": {odd}\r\n".encode() not in answer


def test_a_head_that_came_before_is_read_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Mock(wraps=door_module._length_and_id)
    monkeypatch.setattr(door_module, "_length_and_id", read)
    plain, odd = request(BODY), request(BODY, "/v1/score", "expect: 100-continue")
    answers = {door.refuse_plain(plain, []) for _ in range(5)}
    assert len(answers) == 5 and None not in answers and read.call_count == 1  # each with an id of its own
    assert door.refuse_plain(plain[:-1], []) is None and door.refuse_plain(plain + b"P", []) is None
    assert door.refuse_plain(odd, []) is door.refuse_plain(odd, []) is None
    for number in range(3000):  # no more memory, whatever comes
        assert door.refuse_plain(request(BODY, "/v1/score", f"x-y: {number}"), []) is not None
        assert door.refuse_plain(request(BODY, "/v1/score", f"x-request-id: {number}"), []) is not None
        assert len(door._known) <= 1024
    door._known.clear()
    assert door.refuse_plain(request(BODY, "/v1/score", f"x-y: {'z' * 2000}"), []) is not None and not door._known


@pytest.mark.parametrize(
    "sent",
    [
        request(BODY)[:-1],
        request(BODY) + b"P",
        request(BODY, "/v1/score?strict=1"),
        request(BODY, "/v1/scores"),
        request(BODY, method="GET"),
        request(BODY, version="1.0"),
        request(BODY, "/v1/score", "connection: close"),
        request(BODY, "/v1/score", "Expect: 100-continue"),
        request(BODY, "/v1/score", "Transfer-Encoding: chunked"),
        request(BODY, "/v1/score", "x: y\n transfer-encoding: chunked"),
        request(BODY, "/v1/score", "upgrade: h2c"),
        request(BODY, "/v1/score", f"Content-Length: {len(BODY)}"),
        request(BODY, "/v1/score", " folded: line"),
        request(BODY).replace(b"content-length: ", b"content-length: +"),
        request(BODY).replace(b"content-length: ", b"content-length : "),
        request(BODY).replace(b"content-length", b"content_length"),
        request(BODY).replace(b"\r\n", b"\n"),
        request(BODY, "/v1/score", "x: y\nz: w"),
        request(BODY, "/v1/score", "x: y\rz: w"),
        request(BODY, "/v1/score", "no colon"),
        request(BODY, "/v1/score", "x-request-id:without a blank"),
        request(BODY, "/v1/score", "x: \x01"),
        b"",
        b"\r\n\r\n",
    ],
)
def test_the_quick_way_leaves_to_the_parser_what_is_not_plain(door: Door, sent: bytes) -> None:
    assert door.refuse_plain(sent, []) is None


def test_nothing_else_is_refused(full: Running) -> None:
    key = f"authorization: Bearer {KEY}"
    for method, path, expected in (
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/v2/models/first", 200),
        ("GET", "/v1/score", 405),
        ("GET", INFER, 405),
        ("GET", "/admin/versions", 200),
        ("POST", "/admin/traffic", 409),
        ("POST", "/v1/scores", 404),
    ):
        with full.open() as client:
            client.sendall(request(b"{}" if method == "POST" else b"", path, key, method=method))
            assert read(client)[0] == expected, path
    with full.open() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        request(b" " * 1_000_000 + BODY),
        request(BODY, "/v1/score", "connection: close"),
        request(BODY, "/v1/score", version="1.0"),
        request(b"", "/v1/score", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"") + b"0\r\n\r\n",
    ],
    ids=["long", "asked for", "old", "chunked"],
)
def test_connections_that_are_of_no_more_use_are_closed_after_the_body(full: Running, sent: bytes) -> None:
    with full.open() as client:
        client.sendall(sent)
        status, headers, _ = read(client)
        assert (status, headers["connection"]) == (429, "close")
        assert closes(client)


@pytest.mark.parametrize("sent", [b"1", b"100000"])
def test_a_body_that_does_not_come_is_not_waited_for(
    full: Running, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_LINGER", 0.2)
    with full.open() as client:
        client.sendall(b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: %b\r\n\r\n" % sent)
        started = time.monotonic()
        assert read(client)[0] == 429
        assert closes(client) and 0.1 < time.monotonic() - started < 4


def test_a_client_that_asks_first_is_told_before_it_sends_the_body(full: Running) -> None:
    with full.open() as client:
        client.sendall(request(BODY, "/v1/score", "expect: 100-continue")[: -len(BODY)])
        status, headers, _ = read(client)
        assert (status, headers["connection"]) == (429, "close")


def test_an_answer_never_overtakes_the_one_before_it(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"limits": {"waiting": 1, "deadline_ms": 60_000}})
    service = Service(Variants.load([first], settings), settings)
    with Running(service, settings) as running, held_scoring(monkeypatch) as go, running.open() as client:
        client.sendall(request(LARGE))
        wait_for(lambda: service.admission.inside == 1)
        client.sendall(request(BODY, "/v1/score", "x-request-id: second"))
        time.sleep(0.1)  # a refusal would have come by now
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(10)
        go.set()
        client.settimeout(20)
        assert read(client)[2]["rows"] == 200
        status, headers, _ = read(client)
        assert status == 200 and headers["x-request-id"] == "second"


def test_a_burst_beyond_the_places_is_refused_and_then_all_is_as_before(first: Path, tmp_path: Path) -> None:
    with serving(tmp_path, str(first), text="[limits]\nwaiting = 3\n") as service:
        clients = [service.open() for _ in range(60)]
        statuses = []
        for _ in range(3):  # on the same connections
            for client in clients:
                client.sendall(request(BODY))
            statuses += [read(client)[0] for client in clients]
        assert set(statuses) == {200, 429}
        for client in clients:
            client.close()
        assert service.score() == 200
        wait_for(lambda: any(line["event"] == "shed" for line in service.lines))
        assert service.stop() == -signal.SIGTERM
        told = sum(line["requests"] for line in service.lines if line["event"] == "shed")
        assert told == statuses.count(429)
        requests = [line for line in service.lines if line["event"] == "request"]
        scored = [line for line in requests if line["route"] == "/v1/score"]
        assert len(scored) == statuses.count(200) + 1  # none is lost at the end
        assert not [line for line in scored if line["status"] == 429]


def test_the_last_lines_are_written_at_the_end(first: Path, tmp_path: Path) -> None:
    with serving(tmp_path, str(first)) as service:
        assert [service.score(user=f"u{number}") for number in range(5)] == [200] * 5
        assert service.stop() == -signal.SIGTERM
    assert [line["rows"] for line in service.lines if line.get("route") == "/v1/score"] == [1] * 5
    assert json.dumps(ROW["tags"]) not in json.dumps(service.lines)
