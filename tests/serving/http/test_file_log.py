"""The thread that writes a log: what waits is bounded, a second try, and nothing ends it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from funnelcast.serving.http import file_log
from funnelcast.serving.http.file_log import FileLog
from funnelcast.serving.http.settings import LogSettings


class Counts(Counter[str]):
    def add(self, end: str, rows: int) -> None:
        self[end] += rows


def open_log(folder: Path, counts: Counts, **settings: Any) -> FileLog:
    return FileLog("log", folder, ["user", "scores"], lambda: None, LogSettings(format="jsonl", **settings), counts.add)


def users(folder: Path) -> list[str]:
    return sorted(json.loads(line)["user"] for path in folder.glob("*.jsonl") for line in path.read_text().splitlines())


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def hanging_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writing begins, and ends when the block does."""
    begun, go, write = threading.Event(), threading.Event(), Path.write_bytes

    def wait(path: Path, data: Any) -> int:
        begun.set()
        assert go.wait(20)
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", wait)
    yield begun
    go.set()


@contextmanager
def refusing_disk(monkeypatch: pytest.MonkeyPatch, times: int, kind: type[Exception] = OSError) -> Iterator[list[str]]:
    """Writing fails some times."""
    tried, write = list[str](), Path.write_bytes

    def refuse(path: Path, data: Any) -> int:
        tried.append(path.name)
        if len(tried) <= times:
            raise kind(24, "Too many open files")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    yield tried


def test_scores_that_wait_are_bounded_while_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_log, "_WAITING_SCORES", 1000)
    counts = Counts()
    log = open_log(tmp_path, counts, file_rows=1)
    with hanging_disk(monkeypatch) as begun:
        log.add({"user": "first", "scores": []})
        assert begun.wait(10)
        for number in range(20):
            log.add({"user": f"u{number:02d}", "scores": {"click": [0.5] * 60, "buy": [0.5] * 40}})
        assert counts == {"lost": 10}
        log.add({"user": "last", "scores": []})  # none more of any kind, so that the log has no gap by size
        assert counts == {"lost": 11}
    log.close()
    assert counts == {"lost": 11, "written": 11}
    assert users(tmp_path) == ["first", *(f"u{number:02d}" for number in range(10))]


def test_room_comes_back_as_rows_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_log, "_WAITING_SCORES", 100)
    counts = Counts()
    log = open_log(tmp_path, counts, file_rows=1)
    for number in range(20):
        log.add({"user": f"u{number:02d}", "scores": [0.5] * 100})
        until(lambda: counts["written"] == number + 1)  # noqa: B023  (called at once)
    log.close()
    assert counts == {"written": 20}


def test_what_the_system_refuses_once_is_written_by_a_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts()
    log = open_log(tmp_path, counts, file_rows=2, file_seconds=0.05)
    with refusing_disk(monkeypatch, 1) as tried:
        for number in range(4):
            log.add({"user": f"u{number}"})
        until(lambda: counts["written"] == 4)
    log.close()
    assert counts == {"written": 4} and users(tmp_path) == ["u0", "u1", "u2", "u3"]
    assert len(tried) == 3 and tried[0] == tried[1] != tried[2]  # one name, so that no row stands twice
    assert not list(tmp_path.glob("*.tmp"))


def test_a_second_try_does_not_wait_until_rows_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts()
    log = open_log(tmp_path, counts, file_rows=1, file_seconds=1000, waiting=10)
    with refusing_disk(monkeypatch, 1):
        log.add({"user": "u0"})
        until(lambda: log._queue.qsize() == 0)
        for number in range(1, 6):
            log.add({"user": f"u{number}"})
        until(lambda: counts["written"] == 6)
    log.close()
    assert counts == {"written": 6}


def test_what_is_refused_twice_has_failed_and_the_next_rows_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts()
    log = open_log(tmp_path, counts, file_rows=2, file_seconds=0.05)
    with refusing_disk(monkeypatch, 2):
        for number in range(4):
            log.add({"user": f"u{number}"})
        until(lambda: sum(counts.values()) == 4)
    log.close()
    assert counts == {"failed": 2, "written": 2} and users(tmp_path) == ["u2", "u3"]


def test_a_failure_that_nobody_expects_does_not_end_the_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts()
    log = open_log(tmp_path, counts, file_rows=1)
    for user in ("u0", object(), object(), "u1"):  # no JSON
        log.add({"user": user})
    log.close()
    assert counts == {"written": 2, "failed": 2} and users(tmp_path) == ["u0", "u1"]
    told = [record for record in caplog.records if record.getMessage() == "log_not_written"]
    assert len(told) == 1 and told[0].exc_info is not None and told[0].exc_info[0] is TypeError


def test_nor_does_a_counter_that_cannot_be_written(tmp_path: Path) -> None:
    def count(*_: object) -> None:
        raise ValueError("no room for a counter")

    log = FileLog("log", tmp_path, ["user"], lambda: None, LogSettings(format="jsonl", file_rows=1), count)
    for user in ("u0", "u1"):
        log.add({"user": user})
    log.close()
    assert users(tmp_path) == ["u0", "u1"]
