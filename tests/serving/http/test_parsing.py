"""What stands in the bytes of a connection is read as what it is, and every request gets its own answer."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.http.processes import Process, serving, wait_for
from tests.serving.http.test_gathered import send
from tests.serving.http.test_overload import BODY, LARGE
from tests.serving.http.test_shedding import Running, closes, full, read, request

from funnelcast.serving.http import run
from funnelcast.serving.http.service import Service
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.variants import Variants

__all__ = ["full"]  # a fixture of another file

UPGRADE = ("connection: upgrade", "upgrade: h2c")
LIVE = request(b"", "/livez", method="GET")


@pytest.fixture(scope="module")
def running(first: Path) -> Iterator[Running]:
    given = Settings()
    with Running(Service(Variants.load([first], given), given), given) as running:
        yield running


@pytest.mark.parametrize("body", [BODY, BODY.ljust(40_000), LARGE])
def test_who_offers_an_upgrade_is_answered_as_before(running: Running, body: bytes) -> None:
    sent = request(body, "/v1/score", *UPGRADE)
    head = len(sent) - len(body)
    with running.open() as client:
        for places in ((), (10, head), (head + 1, len(sent) - 1)):
            send(client, sent, *places)
            status, _, said = read(client)
            assert (status, "reach" in said) == (200, True)
        client.sendall(request(b"", "/livez", *UPGRADE, method="GET") + sent + LIVE)
        assert [read(client)[0] for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("path", ["/v1/score", "/livez"])
def test_a_body_behind_an_upgrade_is_no_request(running: Running, path: str) -> None:
    with running.open() as client:
        send(client, request(LIVE, path, *UPGRADE), len(request(LIVE, path, *UPGRADE)) - len(LIVE))
        assert read(client)[0] == (400 if path == "/v1/score" else 405)
        client.sendall(LIVE)
        assert read(client)[0] == 200  # and of one request
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_nothing_is_read_behind_an_upgrade_with_a_body_in_pieces(running: Running) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n" + "\r\n".join(UPGRADE).encode()
    with running.open() as client:
        client.sendall(head + b"\r\n\r\n" + LIVE)
        status, headers, said = read(client)
        assert (status, headers["connection"], said["error"]["code"]) == (400, "close", "empty_body")
        assert closes(client)


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(st.sampled_from(["score", "upgrade", "live", "large"]), min_size=1, max_size=5), cuts=st.data())
def test_answers_do_not_depend_on_where_the_bytes_are_cut(
    running: Running, kinds: list[str], cuts: st.DataObject
) -> None:
    known = {
        "score": request(BODY),
        "upgrade": request(BODY, "/v1/score", *UPGRADE),
        "live": LIVE,
        "large": request(LARGE, "/v1/score", *UPGRADE),
    }
    sent = b"".join(known[kind] for kind in kinds)
    places = sorted(cuts.draw(st.sets(st.integers(1, len(sent) - 1), max_size=4)))
    with running.open() as client:
        send(client, sent, *places)
        assert ["live" in read(client)[2] for _ in kinds] == [kind == "live" for kind in kinds]


@pytest.mark.parametrize("cut", [20, len(LIVE) - 1])
def test_many_requests_with_a_part_of_another_are_no_large_head(running: Running, cut: int) -> None:
    many = 64 * 1024 // len(LIVE) + 10
    with running.open() as client:
        client.sendall(LIVE * many + LIVE[:cut])
        assert [read(client)[0] for _ in range(many)] == [200] * many
        client.sendall(LIVE[cut:])
        assert read(client)[0] == 200


def test_a_large_head_is_refused_also_where_it_comes_at_once(running: Running) -> None:
    most = 64 * 1024
    with running.open() as client:
        client.sendall(request(b"", "/livez", f"x-pad: {'a' * (most - 200)}", method="GET"))
        assert read(client)[0] == 200
        client.sendall(LIVE + request(b"", "/livez", f"x-pad: {'a' * most}", method="GET") + LIVE)
        assert read(client)[0] == 200  # of the first
        assert closes(client)
    with running.open() as client:
        client.sendall(request(b"", "/livez", f"x-pad: {'a' * most}", method="GET"))
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("before", [[BODY], [BODY, BODY], [LARGE], [LARGE, BODY]])
def test_what_cannot_be_read_takes_no_answer_from_what_came_before(running: Running, before: list[bytes]) -> None:
    with running.open() as client:
        client.sendall(b"".join(map(request, before)) + b"\x01 no HTTP\r\n\r\n" + LIVE)
        assert [read(client)[0] for _ in before] == [200] * len(before)
        assert closes(client)


ODD = [b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"GET http://h?x HTTP/1.1\r\n\r\n", b"GET http://h:99999/ HTTP/1.1\r\n\r\n"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("before", [[], [request(LARGE)], [request(LARGE), LIVE]])
def test_nor_does_a_target_that_is_none(running: Running, before: list[bytes], odd: bytes) -> None:
    with running.open() as client:
        client.sendall(b"".join(before) + odd + LIVE)
        assert [read(client)[0] for _ in before] == [200] * len(before)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ") if not before else closes(client)


@pytest.mark.parametrize("before", [[request(LARGE)], [request(LARGE), LIVE]])
def test_nor_does_a_large_head_whose_body_cannot_be_read(running: Running, before: list[bytes]) -> None:
    large = b"POST /v1/score HTTP/1.1\r\nx-pad: %b\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" % (b"a" * 70_000)
    with running.open() as client:
        client.sendall(b"".join(before) + large)
        assert [read(client)[0] for _ in before] == [200] * len(before)
        assert closes(client)


def test_a_request_has_one_answer(running: Running) -> None:
    with running.open() as client:
        client.sendall(b"POST /nope HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        assert read(client)[0] == 404
        client.sendall(b"zz\r\n")
        assert closes(client)


@pytest.mark.parametrize("sent", [[BODY], [LARGE], [LARGE, BODY]])
def test_who_says_that_no_more_comes_is_answered(running: Running, sent: list[bytes]) -> None:
    with running.open() as client:
        client.sendall(b"".join(map(request, sent)))
        client.shutdown(socket.SHUT_WR)
        assert [read(client)[0] for _ in sent] == [200] * len(sent)
        assert closes(client)
    with running.open() as client:
        client.sendall(request(BODY)[:-1])
        client.shutdown(socket.SHUT_WR)
        assert closes(client)


def test_what_cannot_be_read_is_400(running: Running) -> None:
    chunked = b"POST /v1/score HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n"
    for sent in (b"\x01 no HTTP\r\n\r\n", chunked, b"POST /v1/score HTTP/1.1\r\nh: a\nb: c\r\n\r\n"):
        with running.open() as client:
            client.sendall(sent)
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
            assert closes(client)
    with running.open() as client:  # the second of two cannot be read on
        client.sendall(request(LARGE) + chunked)
        assert read(client)[0] == 200
        assert closes(client)


def test_a_path_with_a_slash_more_is_unknown_and_not_elsewhere(running: Running) -> None:
    with running.open() as client:
        client.sendall(request(BODY, "/v1/score/", "x-request-id: mine"))
        status, headers, said = read(client)
        assert (status, said["error"]["code"], headers["x-request-id"]) == (404, "unknown_route", "mine")


def test_from_who_does_not_read_nothing_is_read(full: Running) -> None:
    sent = request(BODY)
    with full.open() as client:
        client.setblocking(False)
        begun = since = time.monotonic()
        done, data = 0, sent * 100
        while time.monotonic() < since + 0.5 and time.monotonic() < begun + 20:  # until nothing is taken any more
            try:
                done += client.send(data[done % len(data) :])
                since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.001)
        assert done < 40_000_000
        client.settimeout(20)
        whole = done // len(sent)
        assert {read(client)[0] for _ in range(min(whole, 200))} == {429}


def test_connections_end_whose_client_does_not_read(first: Path, tmp_path: Path) -> None:
    with serving(tmp_path, str(first), text="[server]\nkeep_alive_seconds = 1\n") as service:
        with service.open() as client:
            own = client.getsockname()
            client.sendall(request(b"", "/openapi.json", method="GET") * 2000)
            wait_for(lambda: own in clients(service))
            wait_for(lambda: own not in clients(service))
        assert service.ask("GET", "/livez")[0] == 200
        assert not [line for line in service.lines if line["level"] == "error"]


def clients(service: Process) -> set[tuple[str, int]]:
    """Addresses of the connections that the service has."""
    return {tuple(one.raddr) for one in psutil.Process(service.process.pid).net_connections() if one.raddr}


def test_the_system_may_allow_fewer_files_than_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    for limits, expected in (((256, 4096), 1024), ((4096, 4096), 1024), ((256, 512), 384), ((100, 100), 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        assert run._connections(1024) == expected
    assert asked == [(1152, 4096), (512, 512), (100, 100)]
    told = [record for record in caplog.records if record.getMessage() == "few_files"]
    assert [record.said["connections"] for record in told] == [384, 1]  # type: ignore[attr-defined]
