"""Too many requests, too late answers, keys: what is refused, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.serving.http.conftest import ROW, make_client

from funnelcast.errors import ArtifactError
from funnelcast.serving.bundle import Bundle
from funnelcast.serving.http import paced, variants
from funnelcast.serving.http.admission import Admission
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.settings import Limits

BODY = json.dumps({"candidates": [ROW]}).encode()
LARGE = json.dumps({"candidates": [ROW] * 200}).encode()  # scored in a thread, which a test may hold


@contextmanager
def held_scoring(monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> Iterator[threading.Event]:
    """Scoring waits for an event, and then fails if it should."""
    go, score = threading.Event(), Bundle.score_ids

    def wait(self: Bundle, ids: Any) -> Any:
        assert go.wait(20)
        if failure is not None:
            raise failure
        return score(self, ids)

    monkeypatch.setattr(Bundle, "score_ids", wait)
    yield go
    go.set()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_answered(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_client([first], limits={"waiting": 3, "deadline_ms": 20_000}) as client, held_scoring(monkeypatch) as go:

        async def storm() -> tuple[list[Any], list[Any]]:
            asked = [asyncio.create_task(client.call_async("POST", "/v1/score", LARGE)) for _ in range(3)]
            await until(lambda: client.service.admission.inside == 3)
            async with asyncio.timeout(2):
                more = [await client.call_async("POST", "/v1/score", BODY) for _ in range(5)]
            go.set()
            return [await one for one in asked], more

        answered, refused = client.runner.run(storm())
        assert [one.status for one in answered] == [200] * 3
        assert {(one.status, one.json["error"]["code"], one.headers["retry-after"]) for one in refused} == {
            (429, "overloaded", "1")
        }
        assert client.post({"candidates": [ROW]}).status == 200
        assert client.service.admission.inside == 0
        assert b"funnelcast_shed_requests_total 5.0" in client.call("GET", "/metrics").body


def test_a_late_answer_is_504_and_what_waited_is_never_begun(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_client([first], server={"threads": 1}) as client, held_scoring(monkeypatch) as go:

        async def late() -> list[int]:
            asked = [
                asyncio.create_task(client.call_async("POST", "/v1/score", LARGE, x_deadline_ms="60")) for _ in range(3)
            ]
            found = [(await one).status for one in asked]
            # The one that runs keeps its place until it ends; those behind it have left.
            await until(lambda: client.service.admission.inside == 1)
            go.set()
            await until(lambda: client.service.admission.inside == 0)
            return found

        assert client.runner.run(late()) == [504] * 3
        assert client.post({"candidates": [ROW]}).status == 200


def test_at_the_end_nothing_more_is_begun() -> None:
    go, begun = threading.Event(), list[int]()

    def job() -> bool:
        begun.append(1)
        return go.wait(20)

    async def end() -> list[Any]:
        admission = Admission(Limits(), 1, 5.0, paced.Paced(lambda _: [], lambda: 1))
        asked = [asyncio.create_task(admission.run(job, time.monotonic() + 60)) for _ in range(3)]
        await until(lambda: bool(begun))
        closing = asyncio.get_running_loop().run_in_executor(None, admission.close)
        await asyncio.wait(asked[1:])
        go.set()
        await closing
        return await asyncio.gather(*asked, return_exceptions=True)

    done, *left = asyncio.run(end())
    assert done is True and len(begun) == 1
    assert [type(one) for one in left] == [asyncio.CancelledError] * 2


def test_what_fails_after_its_deadline_is_not_told_in_the_log(
    first: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with make_client([first]) as client, held_scoring(monkeypatch, RefusalError(400, "wrong_type", "a secret")) as go:

        async def late() -> int:
            status = (await client.call_async("POST", "/v1/score", LARGE, x_deadline_ms="60")).status
            go.set()
            await until(lambda: client.service.admission.inside == 0)
            return status

        assert client.runner.run(late()) == 504
        gc.collect()
    assert "secret" not in caplog.text


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have requests of a few rows scored in the event loop, one call a turn, however slow the machine is."""
    monkeypatch.setattr(variants, "_small_rows", lambda *_: 25)
    monkeypatch.setattr(paced, "_TURN", 1e-9)


@pytest.mark.usefixtures("small")
def test_a_burst_of_small_requests_is_refused_beyond_the_places(first: Path) -> None:
    with make_client([first], limits={"waiting": 3, "deadline_ms": 20_000}) as client:

        async def storm() -> list[int]:
            asked = [client.call_async("POST", "/v1/score", BODY) for _ in range(10)]
            return [one.status for one in await asyncio.gather(*asked)]

        # The first one is scored at once; three wait for their turn.
        assert sorted(client.runner.run(storm())) == [200] * 4 + [429] * 6
        assert client.service.admission.inside == 0
        assert client.runner.run(storm()).count(200) in (3, 4)  # the first one may find its turn over


@pytest.mark.usefixtures("small")
def test_a_small_request_that_waits_until_its_deadline_is_never_begun(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced, "_TOGETHER", 1)
    score, begun = Bundle.score_ids, []

    def slow(self: Bundle, ids: Any) -> Any:
        begun.append(len(ids))
        time.sleep(0.3)
        return score(self, ids)

    with make_client([first]) as client:
        monkeypatch.setattr(Bundle, "score_ids", slow)

        async def ask() -> list[int]:
            asked = [client.call_async("POST", "/v1/score", BODY, x_deadline_ms="200") for _ in range(3)]
            return [one.status for one in await asyncio.gather(*asked)]

        # The first one is scored before the others begin to wait.
        assert client.runner.run(ask()) == [200, 200, 504] and begun == [1, 1]
        assert client.service.admission.inside == 0


@pytest.mark.usefixtures("small")
def test_between_two_turns_others_are_answered(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paced, "_TOGETHER", 2)
    with make_client([first]) as client:

        async def ask() -> list[str]:
            ended: list[str] = []

            async def note(name: str, path: str, body: bytes) -> None:
                await client.call_async("POST" if body else "GET", path, body)
                ended.append(name)

            scores = [asyncio.create_task(note("score", "/v1/score", BODY)) for _ in range(8)]
            await asyncio.gather(*scores, asyncio.create_task(note("health", "/livez", b"")))
            return ended

        assert client.runner.run(ask()).index("health") <= 2


@pytest.mark.usefixtures("small")
def test_large_requests_go_to_a_thread_and_small_ones_do_not(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, score = [], Bundle.score_ids

    def note(self: Bundle, ids: Any) -> Any:
        threads.append(threading.current_thread().name.startswith("score"))
        return score(self, ids)

    with make_client([first]) as client:
        monkeypatch.setattr(Bundle, "score_ids", note)
        for body in (BODY, LARGE):
            assert client.call("POST", "/v1/score", body).status == 200
        spaces = BODY.replace(b"{", b"{" + b" " * 40_000, 1)
        assert client.call("POST", "/v1/score", spaces).status == 200
    assert threads == [False, True, True]


def test_what_is_shed_is_one_line_and_not_one_each(first: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "funnelcast.serve")
    with make_client([first], limits={"held_bytes": 1}) as client:
        for _ in range(4):
            assert client.post({"candidates": [ROW]}).status == 429
        assert client.call("GET", "/nowhere").status == 404
    shed = [record for record in caplog.records if record.getMessage() == "shed"]
    assert [getattr(record, "said", None) for record in shed] == [{"requests": 4}]
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.getMessage().startswith("{")]
    assert [line["status"] for line in lines] == [404]


def test_bodies_share_a_bounded_memory(first: Path) -> None:
    with make_client([first], limits={"held_bytes": 1000}) as client:
        reply = client.post({"candidates": [ROW] * 20})
        assert reply.status == 429 and reply.headers["connection"] == "close"
        assert client.service.admission.held == 0
        assert client.post({"candidates": [ROW]}).status == 200


def test_a_slow_body_is_408_and_one_that_breaks_off_is_forgotten(first: Path) -> None:
    def slow() -> Any:
        sent = iter([{"type": "http.request", "body": BODY[:10], "more_body": True}])

        async def receive() -> Any:
            if (message := next(sent, None)) is None:
                await asyncio.sleep(30)
            return message

        return receive

    def broken() -> Any:
        sent = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(sent)

        return receive

    def in_pieces() -> Any:
        parts = [BODY[k : k + 7] for k in range(0, len(BODY), 7)]
        sent = iter([{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts])

        async def receive() -> Any:
            return next(sent)

        return receive

    with make_client([first], server={"body_seconds": 0.05}) as client:
        ask = client.runner.run
        late = ask(client.call_async("POST", "/v1/score", pieces=slow))
        assert (
            late.status == 408 and late.json["error"]["code"] == "slow_body" and late.headers["connection"] == "close"
        )
        assert ask(client.call_async("POST", "/v1/score", pieces=broken)).status == 499
        assert ask(client.call_async("POST", "/v1/score", pieces=in_pieces)).status == 200
        assert client.service.admission.held == client.service.admission.inside == 0


def test_a_failure_is_500_without_its_reason(
    first: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Bundle, ids: Any) -> Any:
        raise ArtifactError("/secret/place/model.onnx: reach of row 0 should be finite, received nan")

    with make_client([first]) as client:
        monkeypatch.setattr(Bundle, "score_ids", fail)
        reply = client.post({"candidates": [ROW]})
        assert reply.status == 500 and b"secret" not in reply.body
        assert "should be finite" in caplog.text
        monkeypatch.undo()
        assert client.post({"candidates": [ROW]}).status == 200


def test_keys_guard_scoring_alone(first: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    over, long = "fedcba9876543210 2020-01-01T00:00:00Z", "ffffffffffffffff 2999-01-01T00:00:00+00:00"
    path.write_text(f"# ours\n0123456789abcdef\n\n{over}\n{long}\n")
    with make_client([first], score_keys=path) as client:
        for header in ("Bearer 0123456789abcdef", "bearer ffffffffffffffff"):
            assert client.post({"candidates": [ROW]}, authorization=header).status == 200
        assert client.post({"candidates": [ROW]}, x_api_key="0123456789abcdef").status == 200
        wrong = (
            "Bearer fedcba9876543210",
            "Bearer 0123456789abcde",
            "Bearer ",
            "Basic 0123456789abcdef",
            "Bearer \xff",
        )
        for header in wrong:
            reply = client.post({"candidates": [ROW]}, authorization=header)
            assert (reply.status, reply.json["error"]["code"]) == (401, "wrong_key"), header
            assert reply.headers["www-authenticate"] == "Bearer"
        assert client.post({"candidates": [ROW]}).status == 401
        assert client.post({"inputs": []}, "/v2/models/first/infer").status == 401
        assert client.call("GET", "/readyz").status == client.call("GET", "/v2/models/first").status == 200
