"""Parts of `benchmarks.serving`: how much, how fast, and what too much, slow clients and a start cost."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from benchmarks.serving import Finding
from benchmarks.serving_load import LOST, Job, Load, Measured, load
from benchmarks.serving_models import body, bundle
from benchmarks.serving_process import Served

CONNECTIONS = 16
SIZES = (1, 100)
TARGETS = {1: ">= 2500", 100: ">= 800"}
P50 = {("shared_bottom", 1): "<= 2"}
P99 = {("shared_bottom", 1): "<= 10", ("shared_bottom", 100): "<= 25", ("apem", 100): "<= 40"}
SLOW = 500
LOADS = 3  # of each kind, in turns
FLOODS, CROWDS = 3, 5  # each between two measurements of its baseline, since the machine is now faster and now slower
HEAD = b"POST /v1/score HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
_capacity: dict[tuple[str, int], float] = {}


def both(title: str, measured: list[Measured]) -> list[tuple[str, list[Measured]]]:
    """Return what was measured, as it is and without the moments in which the machine itself was slow, with titles."""
    quiet = [one.calm() for one in measured]
    share = sum(one.seconds for one in quiet) / sum(one.seconds for one in measured)
    return [(title, measured), (f"{title}, {share:.0%} calm", quiet)]


def at_capacity(served: Served, rows: int, seconds: float) -> Measured:
    """Ask as fast as answers come."""
    return load(Job(served.port, body(rows), CONNECTIONS, seconds))


def capacity_of(served: Served, name: str, rows: int, seconds: float) -> float:
    """Answers a second of a bundle, measured once a process."""
    if (name, rows) not in _capacity:
        _capacity[name, rows] = at_capacity(served, rows, min(seconds, 10.0)).per_second()
    return _capacity[name, rows]


def capacity(seconds: float) -> list[Finding]:
    """Closed loop, 16 connections, one worker; what is compared takes turns, since the machine changes its speed."""
    cases = [(name, rows) for name in ("shared_bottom", "apem") for rows in SIZES]
    with ExitStack() as stack:
        served = {name: stack.enter_context(Served(bundle(name))) for name in ("shared_bottom", "apem")}
        turns = [{case: at_capacity(served[case[0]], case[1], seconds) for case in cases} for _ in range(LOADS)]
    found = []
    for name, rows in cases:
        loads = [turn[name, rows] for turn in turns]
        _capacity[name, rows] = median([one.per_second() for one in loads])
        target = TARGETS[rows] if name == "shared_bottom" else ""
        for title, some in both(f"{name}, {rows} rows", loads):
            each = [one.per_second() for one in some]
            p50, p99 = (median([one.milliseconds(share) for one in some]) for share in (0.5, 0.99))
            lost = sum(int((one.status != 200).sum()) for one in some)
            note = (
                f"of {', '.join(f'{value:,.0f}' for value in each)}; p50 {p50:.2f} ms, p99 {p99:.2f} ms, {lost} not 200"
            )
            found.append(Finding("capacity", title, median(each), "req/s", target, note))
    return found


def latency(seconds: float) -> list[Finding]:
    """Open loop at half the capacity of that very moment, in turns as well."""
    cases = [("shared_bottom", 1), ("shared_bottom", 100), ("apem", 100)]
    with ExitStack() as stack:
        served = {name: stack.enter_context(Served(bundle(name))) for name in ("shared_bottom", "apem")}
        turns = [{(name, rows): _at_half(served[name], rows, seconds) for name, rows in cases} for _ in range(LOADS)]
    found = []
    for case in cases:
        rates = ", ".join(f"{rate:,.0f}" for rate, _ in (turn[case] for turn in turns))
        for title, some in both(f"{case[0]}, {case[1]} rows", [turn[case][1] for turn in turns]):
            lost = sum(int((one.status != 200).sum()) for one in some)
            for share, target in ((0.5, P50.get(case, "")), (0.99, P99[case]), (0.999, "")):
                each = [one.milliseconds(share) for one in some]
                note = f"of {listed(each)}; {rates} req/s, {lost} not 200"
                found.append(Finding("latency", f"{title}, p{share * 100:g}", median(each), "ms", target, note))
    return found


def _at_half(served: Served, rows: int, seconds: float) -> tuple[float, Measured]:
    """Return half of what the service can do just now, and a load of that rate."""
    rate = at_capacity(served, rows, min(seconds, 3.0)).per_second() / 2
    return rate, load(Job(served.port, body(rows), 256, seconds, rate))


@dataclass(frozen=True)
class _Flood:
    """Too much for a while, and what the service can do right before and behind it."""

    before: Measured
    during: Measured
    behind: Measured
    grown: float  # megabytes

    def goodput(self) -> float:
        """Answers beside what the service can do."""
        return 2 * self.during.per_second() / (self.before.per_second() + self.behind.per_second())

    def calm(self) -> _Flood:
        """Leave out the slow moments of the machine."""
        return _Flood(self.before.calm(), self.during.calm(), self.behind.calm(), self.grown)


def _flood(served: Served, seconds: float) -> _Flood:
    before = at_capacity(served, 1, min(seconds, 5.0))
    resident = served.resident()
    during = load(Job(served.port, body(1), 256, seconds, 3 * before.per_second()))
    grown = served.resident() - resident
    return _Flood(before, during, at_capacity(served, 1, min(seconds, 5.0)), grown)


def overload(seconds: float) -> list[Finding]:
    """Three times the capacity, which is measured before and behind each time, and at the end a tenth of it."""
    with Served(bundle("shared_bottom")) as served:
        floods = [_flood(served, seconds) for _ in range(FLOODS)]
        usual = load(Job(served.port, body(1), 16, 3.0, floods[-1].before.per_second() / 10, warm=0.0)).calm()
    late = usual.intended[(usual.status != 200) | (usual.latency > 0.05)]
    recovered = float(late.max(initial=0.0)) if len(usual.status) else float("nan")
    strange = max(float((~np.isin(one.during.status, (200, 429))).mean()) for one in floods)
    found = []
    for when, taken in (("", floods), (", calm", [one.calm() for one in floods])):
        goodput = [one.goodput() for one in taken]
        refused = [one.during.milliseconds(0.99, 429) for one in taken]
        answered = [one.during.milliseconds(0.99) for one in taken]
        found += [
            Finding("overload", f"goodput beside capacity{when}", median(goodput), "", ">= 0.9", listed(goodput)),
            Finding("overload", f"p99 of 429{when}", median(refused), "ms", "<= 10", listed(refused)),
            Finding("overload", f"p99 of 200{when}", median(answered), "ms", "<= 4000", listed(answered)),
        ]
    shares = [float((one.during.status == 429).mean()) for one in floods]
    return [
        *found,
        Finding("overload", "answers that are neither 200 nor 429", strange, "", "<= 0", f"429: {listed(shares)}"),
        Finding("overload", "growth of memory", max(one.grown for one in floods), "MB", "<= 50"),
        Finding("overload", "until answers are as before, calm", recovered, "s", "<= 2"),
    ]


def median(values: list[float]) -> float:
    """Return the one in the middle."""
    return float(np.median(values))


def listed(values: list[float]) -> str:
    """Say what a median is of."""
    return ", ".join(f"{value:.2f}" for value in values)


def slow(seconds: float) -> list[Finding]:
    """500 clients that send nothing, half a head, or half a body, come while others ask at half the capacity."""
    seconds = max(seconds, 10.0)  # slow clients are let go after 5 to 6 s, which the others should not feel either
    kinds = {"silent": b"", "half head": HEAD, "half body": HEAD + b"content-length: 500\r\n\r\n{"}
    found = []
    with Served(bundle("shared_bottom")) as served:
        rate = capacity_of(served, "shared_bottom", 1, seconds) / 2
        job = Job(served.port, body(1), 64, seconds, rate)
        for kind, sent in kinds.items():
            alone, beside, closed = [load(job)], [], 0.0
            for _ in range(CROWDS):
                running = Load(job)
                time.sleep(1.0)
                closed = max(closed, come_and_wait(served.port, sent))
                beside.append(running.result())
                alone.append(load(job))
            found.append(_compared(f"{kind}: p99 of others beside alone", beside, alone))
            quiet = [one.calm() for one in beside], [one.calm() for one in alone]
            found.append(_compared(f"{kind}: p99 of others beside alone, calm", *quiet))
            found.append(Finding("slow", f"{kind}: all closed", closed, "s", "<= 10", f"{SLOW} connections"))
    return found


def _compared(title: str, beside: list[Measured], alone: list[Measured]) -> Finding:
    """Compare each load with the mean of the one before it and the one behind it."""
    p99s, baseline = ([one.milliseconds(0.99) for one in loads] for loads in (beside, alone))
    ratios = [2 * p99 / sum(around) for p99, around in zip(p99s, pairwise(baseline), strict=True)]
    note = f"{listed(ratios)}; {median(p99s):.1f} and {median(baseline):.1f} ms"
    return Finding("slow", title, median(ratios), "", "<= 1.2", note)


def come_and_wait(port: int, sent: bytes) -> float:
    """Open connections at once, send the same on each, and return the seconds until the service has closed all."""
    begun = time.perf_counter()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOW)]
    for client in clients:
        client.sendall(sent)
    for client in clients:
        client.settimeout(30)
        while client.recv(4096):
            pass
        client.close()
    return time.perf_counter() - begun


def start(seconds: float) -> list[Finding]:
    """From the start of the process to ready."""
    times, early = [], 0
    for _ in range(max(3, round(seconds / 10))):
        with Served(bundle("apem")) as served:
            times.append(served.ready_seconds)
            early += served.ask("/v1/score", body(1))[0] != 200
            libraries = {mapped.path for one in served.workers() for mapped in one.memory_maps()}
    torch = sum("torch" in path for path in libraries)
    return [
        Finding("start", "until ready", float(np.median(times)), "s", "<= 3", f"median of {len(times)}"),
        Finding("start", "files of torch in memory", torch, "", "<= 0"),
        Finding("start", "ready, but the first request fails", early, "", "<= 0", f"status {LOST} or an error"),
    ]
