"""`make demo-serving` from the first row to the page, with a small world."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine"),
    pytest.mark.skipif(not (BIN / "funnelcast").is_file(), reason="the command is not installed beside this Python"),
]


def test_data_become_bundles_that_answer_a_week_of_visits_and_a_page(tmp_path: Path) -> None:
    given = [f"SERVED={tmp_path}", "SERVED_ROWS=6000", "SERVED_USERS=80", f"BIN={BIN}"]
    done = subprocess.run(
        ["make", "-o", "install", "demo-serving", *given],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    week = tmp_path / "week"
    record = json.loads((week / "ab.json").read_text())
    exposures = pq.read_table(week / "week.parquet")
    assert record["counts"]["exposures"]["rows"] == record["counts"]["exposures"]["kept"] == exposures.num_rows > 300
    assert [day["date"] for day in record["days"]] == [f"2026-03-{day:02}" for day in range(2, 9)]
    versions = {name: json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("control", "treatment")}
    assert len(versions) == len(set(exposures["model_version"].to_pylist())) == 2
    assert set(exposures["variant"].to_pylist()) == set(versions) and not any(exposures["error"].to_pylist())
    outcomes = record["counts"]["outcomes"]
    assert outcomes["rows"] == outcomes["kept"] > 0  # each is of a request that the service logged
    assert [step["name"] for step in record["steps"]] == ["click", "authorize", "convert"]
    assert "<h1>week</h1>" in (week / "ab.html").read_text()
    live = (week / "live.html").read_text()
    assert f"{exposures.num_rows:,}" in live and "rows scored" in live and "click: rate by day" in live
    lines = [json.loads(line) for line in (week / "service.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line["level"] == "error"]
