"""Preparing 5 M rows x 25 columns: against the same work in pandas, from Parquet and from CSV, and its peak memory.

    python -m benchmarks.prepare [--threads 2] [--json build/bench-prepare.json]

Both sides count values on TRAIN, encode every column and write Parquet; pandas holds everything in memory. Each
preparation runs in a process of its own, and they take turns; seconds are wall time, peak memory is what the system
counted for the process. Files are made in build/bench-prepare (about 2 GB) and removed at the end.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import duckdb
from benchmarks.measure import Figure, run_benchmark

from funnelcast.data.description import Description
from funnelcast.data.prepare import prepare

ROWS, REPEATS, MEMORY_LIMIT = 5_000_000, 3, "500MB"
# 22 id columns: a few large ones, many small ones, as in a click log.
CARDINALITIES = [500_000, 400_000, 250_000, 120_000, 60_000, 30_000, 20_000, 10_000, 6_000, 3_000, 1_500]
CARDINALITIES += [800, 400, 200, 100, 60, 40, 24, 15, 10, 5, 3]
IDS = [f"id{number}" for number in range(len(CARDINALITIES))]
LABELS = ["click", "buy"]
SPLITS: dict[str, dict[str, object]] = {
    "hash": {"kind": "hash", "column": IDS[0]},
    "borders": {"kind": "time", "column": "price", "valid_from": 800.0, "test_from": 900.0},
}
CASES = {  # name -> format and split
    "prepare": ("parquet", "hash"),
    "prepare_borders": ("parquet", "borders"),
    "prepare_csv": ("csv", "hash"),
}


def generate(path: Path, rows: int) -> None:
    """Write 22 id columns, a price and two labels; the second label only where the first is 1."""
    ids = ", ".join(
        f"CAST(pow(hash(i + {number}_000_000_000) / 18446744073709551616.0, 2) * {size} AS INTEGER) AS id{number}"
        for number, size in enumerate(CARDINALITIES)
    )
    query = (
        f"SELECT {ids}, round(hash(i + 30_000_000_000) / 1.8446744073709552e16, 2) AS price, "
        "CAST(hash(i + 31_000_000_000) % 20 = 0 AS TINYINT) AS click, "
        "CAST(hash(i + 31_000_000_000) % 20 = 0 AND hash(i + 32_000_000_000) % 10 = 0 AS TINYINT) AS buy "
        f"FROM range({rows}) AS t(i)"
    )
    options = "FORMAT parquet, COMPRESSION snappy" if path.suffix == ".parquet" else "FORMAT csv, HEADER"
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"COPY ({query}) TO '{path}' ({options})")


def describe(source: Path, split: str = "hash") -> Description:
    """Vocabularies for all ids, log-round for the price, a split by the largest id or by borders of the price."""
    return Description.model_validate(
        {
            "name": "benchmark",
            "source": {"files": [str(source)]},
            "features": [{"names": IDS}, {"name": "price", "kind": "numeric"}],
            "steps": LABELS,
            "split": SPLITS[split],
        }
    )


def ours(source: Path, out: Path, split: str, threads: int) -> None:
    """Prepare as the command does."""
    prepare(describe(source, split), out, memory_limit=MEMORY_LIMIT, threads=threads)


def in_pandas(source: Path, out: Path, split: str, threads: int) -> None:
    """Do the same as one writes it down: no audit, no checksums, no memory limit."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    pa.set_cpu_count(threads)
    out.mkdir()
    rows = pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source, engine="pyarrow")
    draw = pd.util.hash_array(rows[IDS[0]].to_numpy()) / 2.0**64 if split == "hash" else 1 - rows["price"] / 1000
    train = draw >= 0.2
    prices = np.round(np.log1p(rows["price"].to_numpy())).astype(np.int64)
    for name, values in [*((name, rows[name]) for name in IDS), ("price", pd.Series(prices))]:
        known = values[train].value_counts().index
        rows[name] = known.get_indexer(values).astype(np.int32) + np.int32(2)
    for name, part in {"train": train, "valid": (draw >= 0.1) & ~train, "test": draw < 0.1}.items():
        rows[part].to_parquet(out / f"{name}.parquet", compression="lz4")


SIDES: dict[str, Callable[[Path, Path, str, int], None]] = {"ours": ours, "pandas": in_pandas}


def measure(side: str, source: Path, out: Path, split: str, threads: int) -> tuple[float, float]:
    """Prepare once and return wall seconds and the peak memory of this process in bytes."""
    started = time.perf_counter()
    SIDES[side](source, out, split, threads)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def figures(threads: int) -> list[Figure]:
    """Measure all cases."""
    work = Path("build/bench-prepare")
    work.mkdir(parents=True, exist_ok=True)
    found: list[Figure] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for name, (kind, split) in CASES.items():
            source, out = Path(folder) / f"source.{kind}", Path(folder) / "prepared"
            if not source.exists():
                generate(source, ROWS)
            measured: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
            for _ in range(REPEATS):
                for side in SIDES:
                    # A new pool is a new process: its peak memory belongs to this one preparation.
                    with ProcessPoolExecutor(1, mp_context=context) as pool:
                        measured[side].append(pool.submit(measure, side, source, out, split, threads).result())
                    shutil.rmtree(out)
            note = f"limit {MEMORY_LIMIT}, {threads} thread(s), {source.stat().st_size / 1e6:.0f} MB of {kind}"
            speed = {side: ROWS / statistics.median(took for took, _ in pairs) for side, pairs in measured.items()}
            peak = {side: max(memory for _, memory in pairs) for side, pairs in measured.items()}
            found.append(Figure(name, speed["ours"], speed["pandas"], "rows/s", None, f"split by {split}, {note}"))
            found.append(Figure(f"{name}_memory", peak["ours"], peak["pandas"], "B", None, note))
    return found


if __name__ == "__main__":
    run_benchmark(figures, __doc__)
