"""A shadow scores what was answered, and whatever it does the answers stay as they are."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.serving.http.conftest import ROW, Client, make_client

from funnelcast.errors import ConfigError
from funnelcast.serving import Bundle
from funnelcast.serving.http import shadow as module
from funnelcast.serving.http.scoring import Answered, Asked
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.variants import Variant, Variants
from funnelcast.serving.traffic import set_shares

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
ASKED = [{"candidates": [ROW | {"item": number}, ROW]} for number in range(12)]


def shadowed(shop: Path, **more: Any) -> Client:
    return make_client([shop / "first", shop / "second"], shadow={"shares": {"second": 1.0}, **more})


def wait_until(client: Client, holds: Callable[[str], bool]) -> str:
    """Ask for metrics until they say so."""

    async def wait() -> str:
        async with asyncio.timeout(20):
            while not holds(text := (await client.call_async("GET", "/metrics")).body.decode()):
                await asyncio.sleep(0.02)
        return text

    return client.runner.run(wait())


def ends(text: str, end: str) -> float:
    start = f'funnelcast_shadow_requests_total{{end="{end}",variant="second"}} '
    return next((float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start)), 0.0)


def answers(client: Client) -> list[dict[str, Any]]:
    """What clients get, without what differs from call to call."""
    replies = [client.post(said) for said in ASKED]
    assert [reply.status for reply in replies] == [200] * len(replies)
    return [{k: v for k, v in reply.json.items() if k != "request_id"} for reply in replies]


@pytest.fixture(scope="module")
def alone(shop: Path) -> list[dict[str, Any]]:
    """Answers without a shadow."""
    with make_client([shop / "first"]) as client:
        return answers(client)


def test_both_scores_are_logged_under_the_request(shop: Path, tmp_path: Path, alone: list[dict[str, Any]]) -> None:
    with shadowed(shop, folder=str(tmp_path / "log")) as client:
        ids = [client.post(said).json["request_id"] for said in ASKED]
        assert answers(client) == alone
        text = wait_until(client, lambda text: ends(text, "scored") == 2 * len(ASKED))
        assert 'funnelcast_shadow_seconds_count{variant="second"} 24.0' in text
        assert 'funnelcast_shadow_difference_count{variant="second"} 24.0' in text
        assert 'funnelcast_scored_rows_total{variant="second"}' not in text
    table = pq.read_table(tmp_path / "log").slice(0, len(ASKED))
    assert table.schema.equals(module.shadow_schema())
    assert table["request_id"].to_pylist() == ids
    versions = [Bundle.load(shop / name).version for name in ("first", "second")]
    first = table.to_pylist()[0]
    assert [first[key] for key in ("variant", "model_version", "shadow", "shadow_version")] == [
        "first", versions[0], "second", versions[1],
    ]  # fmt: skip
    assert dict(first["reach"]) == alone[0]["reach"]
    with make_client([shop / "second"]) as client:
        assert dict(first["shadow_reach"]) == client.post(ASKED[0]).json["reach"]
    query = re.search(r"```sql\n(SELECT shadow_version.*?)```", PAGE.read_text(), re.DOTALL)
    assert query is not None
    text = query[1].replace("shadow/*.parquet", str(tmp_path / "log" / "*.parquet"))
    compared = duckdb.connect().execute(text).fetchall()
    apart = [np.subtract(dict(one["reach"])["buy"], dict(one["shadow_reach"])["buy"]) for one in table.to_pylist()]
    assert compared[0][0] == versions[1] and compared[0][1] == pytest.approx(np.abs(apart).mean(), rel=1e-5)


def test_a_shadow_that_raises_changes_nothing_and_is_logged_once(
    shop: Path, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("a defect of the shadow")

    monkeypatch.setattr(module, "score_rows", refuse)
    with shadowed(shop) as client:
        assert answers(client) == alone
        wait_until(client, lambda text: ends(text, "failed") == len(ASKED))
    assert [record.getMessage() for record in caplog.records].count("shadow_failed") == 1


def test_a_shadow_that_hangs_only_loses_its_own_requests(
    shop: Path, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, end = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        begun.set()
        end.wait()

    monkeypatch.setattr(module, "score_rows", hang)
    monkeypatch.setattr(module, "_LEAVE", 0.05)
    client = shadowed(shop, waiting=3)
    with client:
        client.post(ASKED[0])
        assert begun.wait(20)
        assert answers(client) == alone  # while the shadow hangs, which it does until the test ends it
        text = client.call("GET", "/metrics").body.decode()
        assert (ends(text, "dropped"), ends(text, "scored")) == (len(ASKED) - 3, 0)
    # It was left behind, and the service stopped all the same.
    assert not client.service.ready
    end.set()


def test_a_slow_shadow_waits_for_a_process_with_nothing_else_to_do(
    shop: Path, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    with shadowed(shop) as client:
        service, shadow = client.service, client.service._shadow
        score = service.scoring.score
        assert shadow is not None
        earlier = Asked.of(json.dumps(ASKED[1]).encode(), "earlier", False, math.inf)
        job = score(earlier).job
        assert job is not None

        def slow(asked: Asked) -> Answered:
            if asked.request_id == "slow":
                begun.set()
                go_on.wait(20)
            return score(asked)

        monkeypatch.setattr(service.scoring, "score", slow)

        large = {"candidates": [ROW] * 200}  # in a thread

        async def ask() -> None:
            first = asyncio.create_task(
                client.call_async("POST", "/v1/score", json.dumps(large).encode(), x_request_id="slow")
            )
            while not begun.is_set():
                assert not first.done()
                await asyncio.sleep(0.01)
            shadow.offer(job)
            await asyncio.sleep(0.1)  # the shadow would have scored by now
            assert ends(service.metrics.text().decode(), "scored") == 0
            go_on.set()
            assert (await first).status == 200

        client.runner.run(ask())
        wait_until(client, lambda text: ends(text, "scored") == 2)


def test_bodies_that_wait_are_bounded_by_bytes(shop: Path, alone: list[dict[str, Any]]) -> None:
    with shadowed(shop, held_bytes=100) as client:
        assert answers(client) == alone
        assert ends(client.call("GET", "/metrics").body.decode(), "dropped") == len(ASKED)


def test_a_share_is_a_share_of_the_requests(
    shop: Path, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter([0.1, 0.3] * 6)
    monkeypatch.setattr("random.random", lambda: next(draws))
    with make_client([shop / "first", shop / "second"], shadow={"shares": {"second": 0.25}}) as client:
        assert answers(client) == alone
        wait_until(client, lambda text: ends(text, "scored") == 6)
        assert ends(client.call("GET", "/metrics").body.decode(), "dropped") == 0


def test_a_shadow_of_another_schema_reads_the_columns_it_knows(
    shop: Path, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shadowed(shop) as client:
        all_of_it = client.service.variants.all
        second = all_of_it["second"]
        columns = {name: column for name, column in second.columns.items() if name != "price"}
        monkeypatch.setitem(all_of_it, "second", Variant("second", second.bundle, columns))
        assert answers(client) == alone
        wait_until(client, lambda text: ends(text, "failed") == len(ASKED))  # its encoders miss the column


def test_a_shadow_gets_no_users_until_the_traffic_gives_it_some(shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    set_shares(path, {"first": 1.0}, "spring")
    shadow = {"shares": {"second": 1.0}}
    folders = [shop / "second", shop / "first"]
    with make_client(folders, traffic=path, shadow=shadow) as client:
        assert client.post(ASKED[0]).json["variant"] == "first"  # without a user, since one bundle answers
    set_shares(path, {"second": 1.0})
    with make_client(folders, traffic=path, shadow=shadow) as client:
        assert client.post(ASKED[0]).json["error"]["code"] == "missing_user"
        assert client.post({"user": "ann", **ASKED[0]}).json["variant"] == "second"
        text = client.call("GET", "/metrics").body.decode()
        assert [ends(text, end) for end in ("scored", "dropped", "failed")] == [0, 0, 0]  # it answered itself


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"shadow": {"shares": {"third": 0.5}}}, "'shadow.shares': no bundle has the name 'third'"),
        ({"shadow": {"shares": {"": 0.5}}}, "'shadow.shares': no bundle has the name ''"),
        ({"shadow": {"shares": {"first": 0.5, "second": 1}}}, "should leave a bundle that answers"),
        ({"shadow": {"shares": {"second": 0.5}}, "shares": {"second": 1.0}}, "received none for 'first'"),
    ],
)
def test_what_cannot_be_a_shadow_is_refused(shop: Path, changes: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        Variants.load([shop / "first", shop / "second"], Settings.model_validate(changes))
