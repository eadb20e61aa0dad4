"""The client of the benchmark counts from the time at which a request should have been sent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.serving import Finding
from benchmarks.serving_load import LOST, REFUSED, Job, load

STALL, RATE, SECONDS = 0.5, 80.0, 1.5
ANSWER = b'HTTP/1.1 200 OK\r\nx-model-version: abc\r\ncontent-length: 18\r\n\r\n{"reach":{"a":[1]}'
ROOT = Path(__file__).parents[2]


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server of one connection that stands still once, and breaks a later request off."""
    monkeypatch.chdir(ROOT)  # where `python -m benchmarks.serving_load` is found
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _serve(listener: socket.socket) -> None:
    answered = 0
    for _ in range(2):
        with listener.accept()[0] as one:
            while one.recv(1 << 16):
                answered += 1
                if answered == 20:
                    time.sleep(STALL)
                if answered == 60:
                    break
                one.sendall(ANSWER)


def test_a_stall_is_in_the_latency_of_all_that_should_have_come_meanwhile(stalling: int) -> None:
    found = load(Job(stalling, "{}", 1, SECONDS, RATE, warm=0.0, seed=3))
    assert abs(len(found.status) - RATE * SECONDS) < 40
    assert (found.status == LOST).sum() == 1 and (found.status == 200).sum() == len(found.status) - 1
    # Requests come all the time, so about a third of them were due while the server stood still.
    assert 0.15 < (found.latency > 0.1).mean() < 0.7
    assert found.milliseconds(0.99) > 1000 * STALL * 0.7 and found.milliseconds(0.1) < 100
    assert found.answers == {(200, "abc", '{"a":[1]'): len(found.status) - 1}


def test_where_nobody_listens_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = load(Job(port, "{}", 2, 0.3, 50.0, warm=0.0))
    assert len(found.status) and set(found.status.tolist()) == {REFUSED} and np.isnan(found.milliseconds(0.5))


def test_targets_have_a_direction() -> None:
    assert Finding("p", "n", 3.0, "s", "<= 3").held and not Finding("p", "n", 2.0, "req/s", ">= 2500").held
    assert Finding("p", "n", 3.0, "s").held is None
