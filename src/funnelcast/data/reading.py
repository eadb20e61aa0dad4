"""Progress of the one pass over the raw files, which DuckDB makes in a single statement."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from funnelcast.data.source import RawSource
from funnelcast.progress import RowProgress

__all__ = ["expected_rows", "reading_progress"]

_SAMPLE_BYTES = 1 << 20  # of a CSV file, to learn how long its lines are
_POLL_SECONDS = 0.2


def expected_rows(source: RawSource) -> int:
    """Count the rows of Parquet files by their footers, and estimate those of CSV files by the length of their lines.

    Args:
        source: the opened raw files.
    """
    if source.format == "parquet":
        return sum(pq.read_metadata(file).num_rows for file in source.files)
    rows = 0.0
    for file in source.files:
        with Path(file).open("rb") as opened:
            sample = opened.read(_SAMPLE_BYTES)
        rows += Path(file).stat().st_size / max(len(sample), 1) * sample.count(b"\n")
    return round(rows)


@contextmanager
def reading_progress(connection: duckdb.DuckDBPyConnection, source: RawSource) -> Iterator[None]:
    """Show how far the statement that runs inside the block has come.

    Args:
        connection: executes the statement.
        source: the files it reads.
    """
    total, done = expected_rows(source), threading.Event()

    def watch() -> None:
        shown = 0
        while not done.wait(_POLL_SECONDS):
            rows = round(max(connection.query_progress(), 0.0) / 100 * total)
            if rows > shown:
                progress.advance(rows - shown)
                shown = rows

    watcher = threading.Thread(target=watch, name="reading-progress", daemon=True)
    with RowProgress("read", total) as progress:
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
