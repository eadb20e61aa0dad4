"""A request that was answered is let go at once, without a collection of cycles."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.serving.http.conftest import ROW, Client, make_client
from tests.serving.http.test_bad_requests import tensors

from funnelcast.serving.http import app
from funnelcast.serving.http.admission import Admission
from funnelcast.serving.http.paced import TOO_LATE, Paced
from funnelcast.serving.http.refusal import RefusalError, forget_frames
from funnelcast.serving.http.scoring import Asked, Scoring
from funnelcast.serving.http.settings import Limits

FEW, MANY = 1, 300  # rows: in the event loop, in a thread
INFER = "/v2/models/first/infer"


@pytest.fixture(scope="module")
def served(first: Path) -> Iterator[Client]:
    with make_client([first], limits={"rows": 400, "body_bytes": 100_000}) as client:
        yield client


@contextmanager
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive() -> int:
    """Count exceptions, and requests that were read."""
    return sum(issubclass(type(one), Exception | Asked) for one in gc.get_objects())


def assert_let_go(before: int) -> None:
    """A thread hands its outcome on a moment before it lets go of it."""
    end = time.monotonic() + 5
    while alive() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert alive() <= before


def rows(count: int, **last: object) -> bytes:
    return json.dumps({"user": "ann", "candidates": [*[ROW] * (count - 1), ROW | last]}).encode()


CASES: dict[str, tuple[int, str, bytes, dict[str, str]]] = {
    "a row": (200, "/v1/score", rows(FEW), {}),
    "many rows": (200, "/v1/score", rows(MANY), {}),
    "tensors": (200, INFER, tensors(), {}),
    "a wrong value in a row": (400, "/v1/score", rows(FEW, item="bad"), {}),
    "a wrong value in many rows": (400, "/v1/score", rows(MANY, item="bad"), {}),
    "a wrong value in a tensor": (400, INFER, tensors(item={"data": ["bad"]}), {}),
    "cut": (400, "/v1/score", rows(FEW)[:-1], {}),
    "many rows that are cut": (400, "/v1/score", rows(MANY)[:-1], {}),
    "an unknown key": (400, "/v1/score", b'{"item": 3}', {}),
    "too many rows": (413, "/v1/score", rows(401), {}),
    "too long": (413, "/v1/score", rows(1000), {}),
    "a wrong header": (400, "/v1/score", rows(FEW), {"x_deadline_ms": "soon"}),
    "no such model": (404, "/v2/models/none/infer", tensors(), {}),
    "no such route": (404, "/v1/none", rows(FEW), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_of_a_request_stays(served: Client, case: str) -> None:
    status, path, body, headers = CASES[case]
    for _ in range(5):  # whatever is kept on purpose, such as a shape
        served.call("POST", path, body, **headers)
    with without_collections():
        before = alive()
        for _ in range(5):
            assert served.call("POST", path, body, **headers).status == status
        assert_let_go(before)


def test_nor_of_one_that_the_model_fails(served: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Scoring, "_answer", fail)
    monkeypatch.setattr(app, "log_line", lambda *_, **__: None)  # pytest keeps what is logged
    for count in (FEW, MANY):
        with without_collections():
            before = alive()
            for _ in range(5):
                assert served.call("POST", "/v1/score", rows(count)).status == 500
            assert_let_go(before)


def test_nor_of_one_that_fails_behind_its_deadline() -> None:
    go = threading.Event()

    def job() -> None:
        assert go.wait(20)
        outcome = RefusalError(400, "wrong_type", "the frame holds what it raises")
        raise outcome

    async def late(admission: Admission) -> None:
        go.clear()
        try:
            await admission.run(job, time.monotonic() + 0.01)
        except RefusalError as error:
            assert error.code == TOO_LATE
            forget_frames(error)
        go.set()
        while admission.inside:
            await asyncio.sleep(0.001)

    async def several(times: int) -> None:
        admission = Admission(Limits(), 1, 5.0, Paced(lambda _: [], lambda: 1))
        for _ in range(times):
            await late(admission)
        admission.close()

    asyncio.run(several(1))
    with without_collections():
        before = alive()
        asyncio.run(several(5))
        assert_let_go(before)


def test_nor_of_one_that_waits_behind_a_busy_thread_past_its_deadline() -> None:
    go = threading.Event()

    class Body:
        """Stands for bytes, which take no weak references."""

        def score(self) -> None:
            raise AssertionError("begun behind its deadline")

    async def late(admission: Admission) -> weakref.ref[Body]:
        body = Body()
        try:
            await admission.run(body.score, time.monotonic() + 0.01)
        except RefusalError as error:
            assert error.code == TOO_LATE
            forget_frames(error)
        return weakref.ref(body)

    async def several() -> None:
        admission = Admission(Limits(), 1, 5.0, Paced(lambda _: [], lambda: 1))
        busy = asyncio.create_task(admission.run(lambda: go.wait(20), time.monotonic() + 20))
        await asyncio.sleep(0)  # it begins
        with without_collections():
            left = [await late(admission) for _ in range(5)]
            kept = [body() for body in left]  # while the thread is still busy
        go.set()
        assert await busy
        admission.close()
        assert kept == [None] * 5

    asyncio.run(several())
