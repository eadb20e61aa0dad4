"""Rows expected before the pass, and the bar during it."""

from __future__ import annotations

import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.data import reading
from funnelcast.data.reading import expected_rows, reading_progress
from funnelcast.data.source import RawSource
from funnelcast.progress import RowProgress


def source(kind: str, *files: Path) -> RawSource:
    return RawSource(tuple(str(f) for f in files), kind, "", {})


def test_parquet_rows_are_counted_and_csv_rows_estimated(tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(pa.table({"a": range(1000 + number)}), tmp_path / f"{number}.parquet")
    assert expected_rows(source("parquet", tmp_path / "0.parquet", tmp_path / "1.parquet")) == 2001
    (tmp_path / "a.csv").write_text("number\n" + "1234567\n" * 500_000)  # 4 MB, of which 1 MB is looked at
    (tmp_path / "empty.csv").touch()
    assert expected_rows(source("csv", tmp_path / "a.csv", tmp_path / "empty.csv")) == pytest.approx(500_000, rel=1e-3)


def test_the_bar_moves_while_the_statement_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": range(5000)}), tmp_path / "a.parquet")
    shown: list[int] = []
    monkeypatch.setattr(RowProgress, "advance", lambda _, rows, note=None: shown.append(rows))
    monkeypatch.setattr(reading, "_POLL_SECONDS", 0.01)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        with reading_progress(connection, source("parquet", tmp_path / "a.parquet")):
            long = "SELECT md5(i::VARCHAR) AS h FROM range(4000000) t(i)"
            connection.execute(f"COPY ({long}) TO '{tmp_path}/o.parquet' (FORMAT parquet)")
    assert len(shown) > 1 and all(rows > 0 for rows in shown) and sum(shown) <= 5000


def test_an_error_inside_ends_the_watch(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    raw = source("parquet", tmp_path / "a.parquet")
    with duckdb.connect() as connection, pytest.raises(duckdb.Error), reading_progress(connection, raw):
        connection.execute("SELECT nonsense")
    assert not any(thread.name == "reading-progress" for thread in threading.enumerate())
