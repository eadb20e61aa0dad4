"""Parts of `benchmarks.serving`: new versions, ends and deaths of processes while requests come."""

from __future__ import annotations

import shutil
import signal
import time
from functools import partial

import numpy as np
import psutil
from benchmarks.serving import Finding
from benchmarks.serving_load import Job, Load, Measured
from benchmarks.serving_models import WORK, body, bundle
from benchmarks.serving_process import Served, wait_for
from benchmarks.serving_speed import CONNECTIONS, capacity_of

from funnelcast.serving.registry import Registry

ENDS, SWAPS = 50, 100
SURE = 0.05  # seconds before SIGTERM in which a request that was sent has certainly been accepted


def swaps(seconds: float) -> list[Finding]:
    """Swap two versions in turns at half the capacity: 100 times in a minute, or as many as the seconds allow."""
    folder = WORK / "registry"
    shutil.rmtree(folder, ignore_errors=True)
    registry = Registry(folder)
    versions = [registry.add(bundle(name)) for name in ("shared_bottom", "another")]
    known = {}
    for version in versions:
        registry.activate(version)
        with Served(folder) as served:
            known[version] = _scores(served)
    count = min(SWAPS, max(2, int(seconds / 0.6)))
    with Served(folder) as served:
        rate = capacity_of(served, "shared_bottom", 1, seconds) / 2
        running = Load(Job(served.port, body(1), 64, seconds + 1.0, rate, warm=0.0))
        took = []
        for number in range(count):
            started = time.perf_counter()
            registry.activate(versions[number % 2])
            wait_for(partial(_swapped, served, number + 1), every=0.02)
            took.append(time.perf_counter() - started)
        measured = running.result()
    failed = int((measured.status != 200).sum())
    mixed = sum(
        number
        for (status, version, scores), number in measured.answers.items()
        if status == 200 and known.get(version) != scores
    )
    seen = {version for _, version, _ in measured.answers}
    note = f"{count} swaps among {len(measured.status)} requests, versions {', '.join(sorted(seen))}"
    return [
        Finding("swaps", "requests that fail", failed, "", "<= 0", note),
        Finding("swaps", "answers with scores of another version", mixed, "", "<= 0"),
        Finding("swaps", "from activate to the first answer, median", float(np.median(took)), "s", "<= 1"),
        Finding("swaps", "p99 under swaps", measured.milliseconds(0.99), "ms"),
    ]


def _swapped(served: Served, times: int) -> bool:
    return served.events("swapped") >= times


def _scores(served: Served) -> str:
    said = served.ask("/v1/score", body(1))[1].decode()
    return said.partition('"reach":')[2].partition("}")[0]


def drain(seconds: float) -> list[Finding]:
    """Send SIGTERM to a service of two workers under load, again and again."""
    ends = min(ENDS, max(2, round(seconds * 2)))
    lost = refused = sent = orphans = 0
    took: list[float] = []
    for number in range(ends):
        with Served(bundle("shared_bottom"), workers=2) as served:
            children = served.workers()
            running = Load(Job(served.port, body(100), 16, 1.5, 200.0, warm=0.0, keep=False, seed=number))
            time.sleep(0.7)
            at = time.perf_counter() - running.begun
            took.append(served.stop())
            orphans += sum(map(_lives, children))
            measured = running.result()
        before = measured.intended < at - SURE
        sent += int(before.sum())
        lost += int((before & (measured.status <= 0)).sum())
        refused += int((~before & (measured.status <= 0)).sum())
    note = f"{ends} ends, {sent} requests before them; {refused} after them found nobody"
    return [
        Finding("drain", "accepted requests without an answer", lost, "", "<= 0", note),
        Finding("drain", "processes that are left", orphans, "", "<= 0"),
        Finding("drain", "longest end", max(took), "s", "<= 10"),
    ]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(seconds: float) -> list[Finding]:
    """Kill, and stop, one of two workers under load."""
    found = []
    for name, sent in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
        with Served(bundle("shared_bottom"), workers=2) as served:
            job = Job(served.port, body(1), CONNECTIONS * 4, max(seconds, 4.0) + 12.0, 200.0, warm=0.0, timeout=5.0)
            running = Load(job)
            time.sleep(1.0)
            victim = served.workers()[0]
            at = time.perf_counter() - running.begun
            victim.send_signal(sent)
            again = wait_for(partial(_replaced, served, victim))
            measured = running.result()
        found += _findings(name, measured, at, again)
    return found


def _replaced(served: Served, old: psutil.Process) -> bool:
    """Whether a third worker said that it is ready."""
    return served.events("ready") >= 3 and not _lives(old)


def _findings(name: str, measured: Measured, at: float, again: float) -> list[Finding]:
    inside = (measured.intended >= at - 0.1) & (measured.intended < at + again)
    failed = measured.status[inside] != 200
    later = measured.intended > at + again + 0.5
    note = f"{int(failed.sum())} of {int(inside.sum())} requests"
    return [
        Finding("kill", f"{name}: another is ready", again, "s", "<= 3" if name == "killed" else "<= 10"),
        Finding("kill", f"{name}: share that failed until then", float(failed.mean()), "", "<= 0.5", note),
        Finding("kill", f"{name}: requests that fail later", int((measured.status[later] != 200).sum()), "", "<= 0"),
    ]
