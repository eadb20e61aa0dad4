"""Small requests wait for their turn in the event loop, and those of one moment are scored together."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest

from funnelcast.serving.http import paced
from funnelcast.serving.http.decode import Request
from funnelcast.serving.http.paced import Paced
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.scoring import Asked


class Calls:
    """Answers each request with its id, and notes who was scored together."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.made: list[str] = []
        self._seconds = seconds

    def __call__(self, requests: Sequence[Asked]) -> list[Any]:
        self.made.append("".join(one.request_id for one in requests))
        time.sleep(self._seconds)
        return [ValueError("wrong") if one.strict else one.request_id for one in requests]


def asked(name: str, rows: int = 1, deadline: float = math.inf, *, wrong: bool = False) -> Asked:
    return Asked(b"", Request(None, {}, [], None), name, wrong, deadline, rows)


async def ask(paced: Paced, *requests: Asked, alone: bool = False) -> list[Any]:
    runs = (paced.run(one, alone=alone) for one in requests)
    return await asyncio.gather(*runs, return_exceptions=True)


def test_what_comes_together_is_scored_together_and_each_gets_its_own() -> None:
    calls = Calls()
    found = asyncio.run(ask(Paced(calls, lambda: 100), asked("a"), asked("b", wrong=True), asked("c")))
    assert calls.made == ["abc"] and found[::2] == ["a", "c"] and str(found[1]) == "wrong"


def test_who_is_alone_does_not_wait() -> None:
    calls = Calls()

    async def before_others() -> list[str]:
        order: list[str] = []
        asyncio.get_running_loop().call_soon(order.append, "others")
        await Paced(calls, lambda: 100).run(asked("a"), alone=True)
        return order.copy()

    assert asyncio.run(before_others()) == [] and calls.made == ["a"]


def test_who_is_alone_stands_behind_those_who_wait() -> None:
    calls = Calls()

    async def run() -> None:
        paced = Paced(calls, lambda: 1)
        first = [asyncio.create_task(paced.run(asked(name), alone=False)) for name in "ab"]
        last = asyncio.create_task(paced.run(asked("c"), alone=True))
        await asyncio.gather(*first, last)

    asyncio.run(run())
    assert calls.made == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("together", "most_rows", "sizes", "made"),
    [
        (32, 100, "1111", ["abcd"]),
        (2, 100, "11111", ["ab", "cd", "e"]),
        (32, 6, "24116", ["ab", "cd", "e"]),
        (32, 3, "3321", ["a", "b", "cd"]),
        (32, 1, "221", ["a", "b", "c"]),  # a new bundle may take fewer rows than the one that was there
        (32, 0, "1", ["a"]),
    ],
)
def test_bounds(monkeypatch: pytest.MonkeyPatch, together: int, most_rows: int, sizes: str, made: list[str]) -> None:
    monkeypatch.setattr(paced, "_TOGETHER", together)
    calls = Calls()
    requests = [asked(name, int(size)) for name, size in zip("abcdef", sizes, strict=False)]
    assert asyncio.run(ask(Paced(calls, lambda: most_rows), *requests)) == [one.request_id for one in requests]
    assert calls.made == made


def test_the_loop_looks_at_its_sockets_after_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(seconds=0.002)  # longer than a turn

    async def run() -> list[int]:
        seen: list[int] = []
        asking = asyncio.create_task(ask(Paced(calls, lambda: 1), *(asked(name) for name in "abc")))
        while not asking.done():
            seen.append(len(calls.made))
            await asyncio.sleep(0)
        return seen

    assert set(asyncio.run(run())) >= {0, 1, 2}  # between the calls others had their turn


def test_fewer_are_scored_together_where_they_take_long() -> None:
    quick, slow = Calls(), Calls(seconds=0.01)

    async def run() -> None:
        for calls in (quick, slow):
            paced = Paced(calls, lambda: 1000)
            for _ in range(30):
                await ask(paced, *(asked("x") for _ in range(40)))

    asyncio.run(run())
    assert max(map(len, quick.made)) == 32 and len(slow.made[0]) == 32 and max(map(len, slow.made[-3:])) == 8


def test_lone_requests_do_not_keep_later_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call takes 1.2 ms, and 0.02 ms more a request: alone, one takes more than half of the 2 ms of a call."""
    clock, calls = 0.0, Calls()

    def score(requests: Sequence[Asked]) -> list[Any]:
        nonlocal clock
        clock += 0.0012 + 0.00002 * len(requests)
        return calls(requests)

    monkeypatch.setattr(paced, "time", Mock(monotonic=time.monotonic, perf_counter=lambda: clock))

    async def run() -> None:
        one = Paced(score, lambda: 1000)
        for _ in range(100):
            await one.run(asked("x"), alone=True)
        for _ in range(40):
            await ask(one, *(asked("x") for _ in range(64)))

    asyncio.run(run())
    assert len(calls.made[0]) == 1 and max(map(len, calls.made[-9:])) > 24


def test_few_answers_are_given_out_between_two_looks_at_the_sockets() -> None:
    calls = Calls()

    async def run() -> list[int]:
        paced, seen = Paced(calls, lambda: 100), [0]
        tasks = [asyncio.create_task(paced.run(asked("x"), alone=False)) for _ in range(30)]
        while seen[-1] < 30:
            await asyncio.sleep(0)
            seen.append(sum(task.done() for task in tasks))
        return seen

    seen = asyncio.run(run())
    assert calls.made == ["x" * 30]
    assert max(after - before for before, after in pairwise(seen)) == 8


def test_few_of_those_who_are_too_late_are_told_between_two_looks_at_the_sockets() -> None:
    async def run() -> int:
        one = Paced(Calls(), lambda: 100)
        tasks = [asyncio.create_task(one.run(asked("x", deadline=0.0), alone=False)) for _ in range(30)]
        seen = [0]
        while seen[-1] < 30:
            await asyncio.sleep(0)
            seen.append(sum(task.done() for task in tasks))
        return max(after - before for before, after in pairwise(seen))

    assert asyncio.run(run()) == 8


def test_nobody_waits_for_what_failed() -> None:
    failing = Mock(side_effect=MemoryError)
    found = asyncio.run(ask(Paced(failing, lambda: 100), asked("a"), asked("b")))
    assert [type(one) for one in found] == [MemoryError] * 2


def test_what_is_too_late_is_never_begun() -> None:
    calls = Calls(seconds=0.03)
    deadline = time.monotonic() + 0.01
    found = asyncio.run(ask(Paced(calls, lambda: 1), asked("a"), asked("b", deadline=deadline), asked("c")))
    assert calls.made == ["a", "c"] and isinstance(found[1], RefusalError) and found[1].status == 504


def test_who_has_left_is_not_scored() -> None:
    calls = Calls()

    async def leave() -> list[Any]:
        paced = Paced(calls, lambda: 100)
        tasks = [asyncio.create_task(paced.run(asked(name), alone=False)) for name in "abc"]
        asyncio.get_running_loop().call_soon(tasks[1].cancel)  # behind the tasks, before the turn
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(leave())
    assert calls.made == ["ac"] and found[::2] == ["a", "c"] and isinstance(found[1], asyncio.CancelledError)
