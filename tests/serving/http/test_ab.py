"""The page of the experiment that runs, which scoring never waits for."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.serving.http.conftest import ROW, Client, make_client, wait_for

from funnelcast.experiment.allocation import Allocation
from funnelcast.serving.http import ab as module
from funnelcast.serving.http.service import ADMIN_KEYS, SCORE_KEYS
from funnelcast.serving.http.settings import Settings

USERS = [f"user {number}" for number in range(60)]
KEY = "an-admin-key-of-a-test"


def with_page(shop: Path, folder: Path, **ab: Any) -> Client:
    log = {"folder": folder / "log", "file_rows": 20}
    folders = [shop / "first", shop / "second"]
    return make_client(folders, experiment="spring", exposures=log, ab={"page": True, "age_seconds": 1000, **ab})


def score_all(client: Client) -> None:
    """Answer every user once, and wait for the files."""
    for user in USERS:
        assert client.post({"user": user, "candidates": [ROW]}).status == 200
    wait_for(client, lambda: client.service.metrics.sums("funnelcast_exposures_total", "end").get("written") == 60)


def test_without_outcomes_it_shows_users_split_and_latency(shop: Path, tmp_path: Path) -> None:
    with with_page(shop, tmp_path) as client:
        empty = client.call("GET", "/ab")
        assert empty.status == 200 and b"No exposures have been written yet" in empty.body
        score_all(client)
        assert client.service.ab is not None
        client.service.ab._page, client.service.ab._next = None, 0.0
        reply = client.call("GET", "/ab")
        assert client.call("GET", "/ab").body == reply.body  # kept
    text = reply.body.decode()
    users = Allocation.of({"first": 0.5, "second": 0.5}).assign(USERS, "spring").count("first")
    assert reply.headers["content-type"].startswith("text/html") and reply.headers["cache-control"] == "no-store"
    assert "<h1>spring</h1>" in text and f"Users are split as planned (first {users}, " in text
    for part in ("No outcomes are read", "Latency and errors", "rows scored", "answers with 200", "exposures written"):
        assert part in text
    assert "lift, always-valid" not in text and str(tmp_path) not in text


def test_with_outcomes_it_shows_rates_and_sequences(shop: Path, tmp_path: Path) -> None:
    with with_page(shop, tmp_path, outcomes=str(tmp_path / "outcomes.jsonl")) as client:
        score_all(client)
        later = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
        lines = [{"time": later, "user": user, "click": 1, "buy": int(user.endswith("0"))} for user in USERS[:40]]
        (tmp_path / "outcomes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        text = client.call("GET", "/ab").body.decode()
    assert "lift, always-valid" in text and "click: rate by day" in text and "buy a click" not in text
    assert "rows scored" in text


def test_an_old_page_is_shown_while_a_new_one_is_made_and_scoring_goes_on(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, made = threading.Event(), threading.Event(), []

    def make(_: object) -> bytes:
        made.append(1)
        if len(made) > 1:
            begun.set()
            go_on.wait(20)
        return b"page %d" % len(made)

    monkeypatch.setattr(module.AbPage, "_make", make)
    with with_page(shop, tmp_path) as client:
        page = client.service.ab
        assert page is not None
        assert [client.call("GET", "/ab").body for _ in range(3)] == [b"page 1"] * 3
        page._next = 0.0
        assert client.call("GET", "/ab").body == b"page 1"
        assert begun.wait(20)
        assert client.call("GET", "/ab").body == b"page 1" and made == [1, 1]
        assert client.post({"user": "ann", "candidates": [ROW]}).status == 200  # with the page still being made
        go_on.set()
        wait_for(client, lambda: page._page == b"page 2")
        assert client.call("GET", "/ab").body == b"page 2"


def test_who_comes_first_together_waits_for_one_process(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make(_: object) -> bytes:
        made.append(1)
        return b"page"

    monkeypatch.setattr(module.AbPage, "_make", make)
    with with_page(shop, tmp_path) as client:

        async def ask() -> list[int]:
            return [one.status for one in await asyncio.gather(*(client.call_async("GET", "/ab") for _ in range(5)))]

        assert client.runner.run(ask()) == [200] * 5 and made == [1]


@pytest.mark.parametrize("broken", [{"timeout_seconds": 0.001}, {"memory": "much"}])
def test_a_page_that_cannot_be_made_is_said_once_an_age(
    shop: Path, tmp_path: Path, broken: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with with_page(shop, tmp_path, **broken) as client:
        score_all(client)
        for _ in range(3):
            reply = client.call("GET", "/ab")
            assert (reply.status, reply.json["error"]["code"]) == (503, "no_page")
            assert 0 < int(reply.headers["retry-after"]) <= 1000
        assert client.post({"user": "ann", "candidates": [ROW]}).status == 200
    assert [record.getMessage() for record in caplog.records].count("ab_page_failed") == 1


def test_a_service_that_stops_ends_the_process(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    begun, popen = threading.Event(), subprocess.Popen

    def sleep(command: list[str], **given: Any) -> subprocess.Popen[bytes]:
        started.append(popen(["/bin/sleep", "1000"], **given))
        begun.set()
        return started[0]

    monkeypatch.setattr("funnelcast.serving.http.ab.subprocess.Popen", sleep)
    monkeypatch.setenv(SCORE_KEYS, "a-score-key-of-a-test")
    with with_page(shop, tmp_path) as client:

        async def ask() -> None:
            task = asyncio.create_task(client.call_async("GET", "/ab"))
            while not begun.is_set():
                await asyncio.sleep(0.01)
            task.cancel()

        client.runner.run(ask())
    assert started[0].wait(20) < 0


def test_the_process_gets_no_keys(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def refuse(command: list[str], **words: Any) -> None:
        given.update(words, command=command)
        raise OSError("no process")

    monkeypatch.setattr("funnelcast.serving.http.ab.subprocess.Popen", refuse)
    monkeypatch.setenv(SCORE_KEYS, "a-score-key-of-a-test")
    with with_page(shop, tmp_path) as client:
        assert client.call("GET", "/ab").status == 503
    assert "PATH" in given["env"] and SCORE_KEYS not in given["env"]


def test_with_admin_keys_a_browser_asks_for_one(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.AbPage, "_make", lambda _: b"page")
    monkeypatch.setenv(ADMIN_KEYS, KEY)
    with with_page(shop, tmp_path) as client:
        refused = client.call("GET", "/ab")
        assert refused.status == 401 and refused.headers["www-authenticate"].startswith("Basic ")
        for text, status in (("me:" + KEY, 200), (":" + KEY, 200), (KEY, 401), ("me:" + KEY + "x", 401), ("me:", 401)):
            packed = base64.b64encode(text.encode()).decode()
            assert client.call("GET", "/ab", authorization=f"Basic {packed}").status == status
        assert client.call("GET", "/ab", authorization="Basic \xe9").status == 401
        assert client.call("GET", "/ab", authorization=f"Bearer {KEY}").status == 200
        packed = base64.b64encode(f"me:{KEY}".encode()).decode()
        assert client.call("GET", "/admin/versions", authorization=f"Basic {packed}").status == 401


def test_without_the_setting_there_is_no_page(first: Path) -> None:
    with make_client([first]) as client:
        assert client.call("GET", "/ab").json["error"]["code"] == "unknown_route"
    with pytest.raises(ValueError, match=r"'ab.page' should stand with 'exposures.folder'"):
        Settings.model_validate({"ab": {"page": True}})
