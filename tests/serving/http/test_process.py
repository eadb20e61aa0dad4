"""The command `funnelcast serve` as a process of its own, spoken to through sockets."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from tests.serving.http.conftest import ROW
from tests.serving.http.processes import Process, serving, wait_for, workers


@pytest.fixture(scope="module")
def service(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    text = "[server]\nheader_seconds = 0.5\nbody_seconds = 0.5\nkeep_alive_seconds = 1\n"
    with serving(tmp_path_factory.mktemp("service"), str(first), text=text) as service:
        yield service


def test_it_answers_without_torch(service: Process) -> None:
    assert service.score() == 200
    files = {mapped.path for mapped in psutil.Process(service.process.pid).memory_maps()}
    assert any("onnxruntime" in path for path in files)
    assert not [path for path in files if "torch" in path or "sklearn" in path or "duckdb" in path]


def test_log_lines_have_no_feature_values(service: Process) -> None:
    assert service.score(context={"zone": "a secret place"}) == 200
    wait_for(lambda: any(line.get("route") == "/v1/score" for line in service.lines))
    line = next(line for line in service.lines if line.get("route") == "/v1/score")
    assert {"time", "level", "request_id", "route", "status", "ms", "rows", "variant", "model_version"} <= line.keys()
    assert "secret" not in json.dumps(service.lines)


def until_closed(client: socket.socket) -> tuple[bytes, float]:
    started, found = time.monotonic(), b""
    while part := client.recv(4096):
        found += part
    client.close()
    return found, time.monotonic() - started


CHUNKED = b"POST /v1/score HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/sc", b"408"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\n", b"408"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: 50\r\n\r\n{", b"408"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{", b"408"),
        (b"GET /livez HTTP/1.1\r\nhost: h\r\nx: " + b"y" * 100_000, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nhost: h\r\n\r\n", b"4"),
        (b"GET /livez HTTP/1.1\r\nx: a\x00b\r\n\r\n", b"400"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999\r\n\r\n", b"413"),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"200"),
        (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", b"400"),
        (CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n", b"400"),
        (CHUNKED + b"ffffffffffffffffff\r\n{", b"400"),
        (CHUNKED + b"fffffff\r\n{", b"408"),
        (CHUNKED + b"2\r\n{}xx\r\n0\r\n\r\n", b"400"),
        (CHUNKED + b"1\r\n{\r\n" * 200 + b"0\r\n\r\n", b"400"),
        (CHUNKED + b"100000\r\n" + b" " * 0x100000 + b"\r\n100000\r\n" * 5, b"4"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", b"400"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ncontent-length: 9\r\n\r\n{}", b"400"),
        (b"POST /v1/score HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip\r\ncontent-length: 0\r\n\r\n", b"4"),
    ],
)
def test_slow_and_broken_clients_are_let_go(service: Process, sent: bytes, status: bytes) -> None:
    answer, seconds = until_closed(service.open(sent))
    assert answer.split(b" ")[1].startswith(status), answer
    assert seconds < 5
    assert service.score() == 200


def test_a_request_without_a_host_is_answered(service: Process) -> None:
    for path in (b"//[", b"//v2/x", b"/no"):
        answer, _ = until_closed(service.open(b"GET %b HTTP/1.0\r\n\r\n" % path))
        assert answer.startswith(b"HTTP/1.1 404") and b"unknown_route" in answer, answer


def test_who_sends_nothing_gets_nothing(service: Process) -> None:
    """An answer would be taken for that to a request which is on its way as the connection is closed."""
    answer, seconds = until_closed(service.open())
    assert answer == b"" and seconds < 5
    client = service.open(b"GET /livez HTTP/1.1\r\nhost: h\r\n\r\n")
    client.recv(4096)
    client.sendall(b"GET /liv")
    assert until_closed(client)[0].startswith(b"HTTP/1.1 408")  # this one has begun


def test_slow_clients_do_not_keep_others_waiting(service: Process) -> None:
    slow = [service.open(b"POST /v1/score HTTP/1.1\r\n") for _ in range(100)]
    started = time.monotonic()
    assert service.score() == 200 and time.monotonic() - started < 1
    for client in slow:
        client.close()


def test_an_answer_without_a_body_is_complete(service: Process) -> None:
    answer, _ = until_closed(service.open(b"HEAD /livez HTTP/1.1\r\nhost: h\r\n\r\nGET /livez HTTP/1.0\r\n\r\n"))
    assert answer.count(b"200 OK") == 2 and answer.count(b'{"live":true}') == 1


def test_a_kept_connection_takes_several_requests_and_then_idles_out(service: Process) -> None:
    client = service.open(b"GET /livez HTTP/1.1\r\nhost: h\r\n\r\n" * 2)  # the second one is pipelined
    answer, seconds = until_closed(client)
    assert answer.count(b"200 OK") == 2 and b"408" not in answer and 0.3 < seconds < 5


def test_a_client_may_ask_before_it_sends_the_body(service: Process) -> None:
    body = json.dumps({"candidates": [ROW]}).encode()
    head = b"POST /v1/score HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
    client = service.open(head)
    assert client.recv(100).startswith(b"HTTP/1.1 100")
    client.sendall(body)
    assert b"200 OK" in client.recv(4096)
    client.close()


def test_a_client_that_leaves_disturbs_nobody(service: Process) -> None:
    for _ in range(5):
        service.open(b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: 500\r\n\r\n{").close()
    assert service.score() == 200
    wait_for(lambda: b"funnelcast_requests_inside 0.0" in service.ask("GET", "/metrics")[2])


def test_accepted_requests_are_answered_after_sigterm(first: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = f'experiment = "spring"\n[exposures]\nfolder = "{log}"\n'
    with serving(tmp_path, str(first), text=text) as service:
        rows = (100, 900)  # of short bodies and of long ones
        bodies = [json.dumps({"user": "ann", "candidates": [ROW] * number}).encode() for number in rows * 4]
        head = b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n"
        clients = [service.open(head % len(body)) for body in bodies]
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        for client, body in zip(clients, bodies, strict=True):
            client.sendall(body)
        answers = [until_closed(client)[0] for client in clients]
        assert all(b"200 OK" in answer for answer in answers), answers
        assert service.process.wait(timeout=10) in (0, -signal.SIGTERM)
        with pytest.raises(OSError, match="refused"):
            service.open()
    written = pq.read_table(log)
    assert written.num_rows == 8 and set(written["user"].to_pylist()) == {"ann"}
    assert not list(log.glob("*.tmp"))


def test_workers_share_a_port_and_their_counters_and_die_with_their_parent(first: Path, tmp_path: Path) -> None:
    with serving(tmp_path, str(first), "--workers", "2") as service:
        children = workers(service)
        wait_for(lambda: sum(line["event"] == "ready" for line in service.lines) == 2)
        assert len(children) == 2
        for _ in range(20):
            assert service.score() == 200
        text = service.ask("GET", "/metrics")[2].decode()
        assert 'funnelcast_requests_total{route="/v1/score",status="200"} 20.0' in text
        children[0].kill()
        started = time.monotonic()
        wait_for(lambda: sum(line["event"] == "ready" for line in service.lines) == 3)
        assert time.monotonic() - started < 10
        assert service.score() == 200
        children = workers(service)
        assert service.stop() == 0
        assert not [child for child in children if child.is_running() and child.status() != "zombie"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_workers_end_with_their_parent(first: Path, tmp_path: Path) -> None:
    with serving(tmp_path, str(first), "--workers", "2") as service:
        children = workers(service)
        service.process.kill()
        wait_for(lambda: not [one for one in children if one.is_running() and one.status() != "zombie"], 15)


def test_what_is_wrong_is_said_in_one_line(first: Path, tmp_path: Path, command: Any) -> None:
    code, _, errors = command("serve", str(tmp_path / "nowhere"))
    assert code == 2 and "manifest.json: should be the manifest of a bundle" in errors
    (tmp_path / "serve.toml").write_text("[limits]\nrow = 3\n")
    code, _, errors = command("serve", str(first), "--config", str(tmp_path / "serve.toml"))
    assert code == 2 and "unknown key 'limits.row'; did you mean 'rows'?" in errors
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, errors = command("serve", str(first), "--port", str(taken.getsockname()[1]))
        assert code == 2 and "should be free and of this machine" in errors
