"""Speed and memory of `prepare` on 5 M rows x 25 columns, from CSV and from Parquet.

    python benchmarks/prepare.py --work build/bench-prepare

Each source is prepared in a process of its own; peak memory is what the system counted for that process. The files
are made in the work folder (about 2 GB) and removed at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

from funnelcast.data.description import Description
from funnelcast.data.prepare import prepare

# 22 id columns: a few large ones, many small ones, as in a click log.
CARDINALITIES = [500_000, 400_000, 250_000, 120_000, 60_000, 30_000, 20_000, 10_000, 6_000, 3_000, 1_500]
CARDINALITIES += [800, 400, 200, 100, 60, 40, 24, 15, 10, 5, 3]


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


def describe(source: Path) -> Description:
    """Vocabularies for all ids, log-round for the price, a split by the largest id."""
    return Description.model_validate(
        {
            "name": "benchmark",
            "source": {"files": [str(source)]},
            "features": [
                {"names": [f"id{number}" for number in range(len(CARDINALITIES))]},
                {"name": "price", "kind": "numeric"},
            ],
            "steps": ["click", "buy"],
            "split": {"kind": "hash", "column": "id0"},
        }
    )


def measure(source: Path, out: Path, memory_limit: str) -> dict[str, float]:
    """Prepare once and report seconds and the peak memory of this process."""
    started = time.perf_counter()
    manifest = prepare(describe(source), out, memory_limit=memory_limit)
    seconds = time.perf_counter() - started
    rows = sum(split["rows"] for split in manifest["splits"].values())
    size = sum(file["bytes"] for split in manifest["splits"].values() for file in split["files"])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak, processor = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
    return {"rows": rows, "seconds": seconds, "processor_seconds": processor, "peak_bytes": peak, "out_bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for temporary files, about 3 GB")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--formats", nargs="+", choices=["parquet", "csv"], default=["parquet", "csv"])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="prepare-", dir=options.work))
    results: list[dict[str, Any]] = []
    try:
        context = multiprocessing.get_context("spawn")
        for kind in options.formats:
            source = folder / f"source.{kind}"
            generate(source, options.rows)
            for _ in range(options.repeats):
                # A new pool is a new process: its peak memory belongs to this one preparation.
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    measured = pool.submit(measure, source, folder / "prepared", options.memory_limit).result()
                result = {"format": kind, "source_bytes": source.stat().st_size, **measured}
                shutil.rmtree(folder / "prepared")
                result["rows_per_second"] = result["rows"] / result["seconds"]
                results.append(result)
                print(json.dumps(result), flush=True)
            source.unlink()
    finally:
        shutil.rmtree(folder)
    header = f"{'format':8} {'M rows/s':>9} {'seconds':>8} {'CPU s':>6} {'peak MB':>8} {'out MB':>7}"
    print(f"\n{header}   limit {options.memory_limit}")
    for result in results:
        print(
            f"{result['format']:8} {result['rows_per_second'] / 1e6:9.2f} {result['seconds']:8.1f} "
            f"{result['processor_seconds']:6.1f} "
            f"{result['peak_bytes'] / 1e6:8.0f} {result['out_bytes'] / 1e6:7.0f}"
        )


if __name__ == "__main__":
    main()
