"""Metrics of several workers, some of which were killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from funnelcast.serving.http import measure
from funnelcast.serving.http.measure import Metrics


def test_what_holds_for_living_processes_goes_with_them(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    kept = {f"gauge_livesum_{os.getpid()}.db", f"counter_{process.pid}.db", "gauge_livesum_1.db"}
    for name in (*kept, f"gauge_livesum_{process.pid}.db", f"gauge_livemax_{process.pid}.db"):
        (tmp_path / name).touch()
    measure._forget_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_others_can_read_how_many_requests_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "anywhere")
    metrics = Metrics()
    metrics.follow(lambda: 7)

    async def tell() -> None:
        async with asyncio.timeout(0.05):
            await metrics.tell()

    with pytest.raises(TimeoutError):
        asyncio.run(tell())
    assert b"\nfunnelcast_requests_inside 7.0\n" in generate_latest(metrics._registry)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    asyncio.run(metrics.tell())  # nobody else reads: it ends at once
