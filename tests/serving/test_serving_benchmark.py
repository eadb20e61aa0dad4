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
from benchmarks.serving_load import LOST, REFUSED, Job, Measured, load
from benchmarks.serving_pulse import AFTER, BEFORE, EVERY, WINDOW, Pulse, calm, slow_moments
from hypothesis import given
from hypothesis import strategies as st

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


def _looks(slow: range) -> np.ndarray:
    """Four looks in each window of a second, 0.1 ms each, and ten times as long in some windows."""
    times = np.arange(200) * EVERY + 1e-4
    took = np.where(np.isin((times / WINDOW).astype(int), list(slow)), 1e-3, 1e-4)
    return np.column_stack([times, took])


def test_a_window_is_slow_where_its_work_takes_long() -> None:
    np.testing.assert_allclose(slow_moments(_looks(range(10, 13))), [0.2, 0.22, 0.24])
    assert len(slow_moments(_looks(range(0)))) == len(slow_moments(np.empty((0, 2)))) == 0


def test_one_interrupted_look_does_not_make_a_window_slow() -> None:
    looks = _looks(range(0))
    looks[41, 1] *= 6  # (3 + 6) / 4 = 2.25 times the usual
    assert len(slow_moments(looks)) == 0
    looks[42, 1] *= 6  # (2 + 12) / 4 = 3.5 times
    np.testing.assert_allclose(slow_moments(looks), [0.2])


def test_what_was_sent_about_a_slow_moment_is_left_out() -> None:
    sent = np.array([0.94, 0.96, 1.0, 1.21, 1.23])
    assert calm(sent, np.array([1.0])).tolist() == [True, False, False, False, True]
    assert calm(sent, np.empty(0)).all()


@given(
    st.lists(st.floats(0, 3), max_size=20),
    st.lists(st.integers(0, 100), max_size=10, unique=True).map(sorted),
)
def test_calm_is_what_no_slow_moment_is_near(sent: list[float], windows: list[int]) -> None:
    moments = np.array(windows) * WINDOW
    wanted = [not any(one - BEFORE <= time < one + WINDOW + AFTER for one in moments) for time in sent]
    near = [
        any(abs(time - edge) < 1e-9 for one in moments for edge in (one - BEFORE, one + WINDOW + AFTER))
        for time in sent
    ]
    found = calm(np.array(sent), moments)
    assert all(a == b or edge for a, b, edge in zip(found.tolist(), wanted, near, strict=True))


def test_the_pulse_counts_the_time_of_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process has the core, that time stands still, so that its load never counts as the machine's."""
    clock = iter([1.0, 1.5, 3.0, 3.25])
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    pulse = Pulse()
    for now in (0.0, EVERY / 2, EVERY):
        pulse.look(now)
    assert pulse.looks == [(0.0, 0.5), (EVERY, 0.25)]


def test_without_its_slow_moments_a_load_has_less_time_and_fewer_requests() -> None:
    sent = np.arange(0.05, 2.0, 0.1)  # 20 requests; those of 0.95 to 1.15 s meet a stall of the machine
    late = np.where((sent > 0.9) & (sent < 1.2), 0.5, 0.001)
    status = np.full(20, 200)
    status[10] = 429
    found = Measured(sent, late, status, 2.0, {}, np.array([1.0]), 0.0)
    quiet = found.calm()
    assert len(quiet.status) == 17 and (quiet.status == 200).all() and quiet.milliseconds(1.0) == pytest.approx(1.0)
    assert quiet.seconds == pytest.approx(2.0 - BEFORE - WINDOW - AFTER, abs=1e-3)
    assert found.milliseconds(1.0) == 500.0 and found.per_second() == 9.5
    assert quiet.per_second() == pytest.approx(17 / 1.73, rel=1e-3)


def test_a_machine_that_was_slow_all_the_time_leaves_nothing() -> None:
    found = Measured(
        np.array([0.1]), np.array([0.1]), np.array([200]), 0.2, {}, np.arange(10.0) * np.float64(WINDOW), 0.0
    )
    quiet = found.calm()
    assert len(quiet.status) == 0 and np.isnan(quiet.per_second()) and np.isnan(quiet.milliseconds(0.5))
