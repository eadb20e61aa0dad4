"""Part of `benchmarks.serving`: half the capacity for many minutes; nothing may grow, and all is counted."""

from __future__ import annotations

import re
import time

import numpy as np
from benchmarks.serving import Finding
from benchmarks.serving_load import Job, Load
from benchmarks.serving_models import body, bundle
from benchmarks.serving_process import Served
from benchmarks.serving_speed import capacity_of

LONG = 20  # times the seconds of the other parts
WARM = 0.1  # of the time, at its begin, in which memory may still grow


def soak(seconds: float) -> list[Finding]:
    """Ask for twenty times the usual seconds; look at memory, files and threads every second."""
    total = LONG * seconds
    with Served(bundle("shared_bottom")) as served:
        rate = capacity_of(served, "shared_bottom", 1, seconds) / 2
        before = _counted(served)
        (worker,) = served.workers()
        running, seen = Load(Job(served.port, body(1), 64, total, rate, warm=0.0)), []
        begun = time.perf_counter()
        while (now := time.perf_counter() - begun) < total:
            seen.append((now, worker.memory_info().rss / 1e6, worker.num_fds(), worker.num_threads()))
            time.sleep(1.0)
        measured = running.result()
        counted = _counted(served) - before
    time_, resident, files, threads = np.array([one for one in seen if one[0] >= WARM * total]).T
    slope = float(np.polyfit(time_, resident, 1)[0] * 600)
    asked = len(measured.status)
    refused = int((measured.status != 200).sum())
    note = f"{total:,.0f} s of {rate:,.0f} req/s, {resident[0]:.0f} MB at first"
    return [
        Finding("soak", "growth of memory in ten minutes", slope, "MB", "<= 1", note),
        Finding("soak", "growth of open files", float(np.ptp(files)), "", "", f"{files[0]:.0f} at first"),
        Finding("soak", "growth of threads", float(np.ptp(threads)), "", "<= 0", f"{threads[0]:.0f} at first"),
        Finding("soak", "requests that the metrics miss", abs(asked - counted), "", "<= 0", f"of {asked:,}"),
        Finding("soak", "requests that are not 200", refused, "", "<= 0"),
        Finding("soak", "p99", measured.milliseconds(0.99), "ms", "<= 10"),
    ]


def _counted(served: Served) -> int:
    """Count answers by the service's own metrics."""
    text = served.ask("/metrics")[1].decode()
    return round(sum(float(n) for n in re.findall(r'funnelcast_requests_total{route="/v1/score".*} (\S+)', text)))
