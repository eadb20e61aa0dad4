"""Whole training loops beside those of torch-rechub and DeepCTR-Torch: same rows, sizes and batch, own trainers.

    python -m benchmarks.peers [--threads 1] [--json build/bench-peers.json]

Every library trains in a process and an environment of its own (made in build/peers, about 2 GB); epochs take turns,
the first of each does not count, and the baseline is the faster of the two libraries. It takes a quarter of an hour.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

import duckdb
import numpy as np
from benchmarks import workload
from benchmarks.measure import Figure, run_benchmark
from benchmarks.peers import sizes
from benchmarks.peers.environments import python_of
from benchmarks.workers import Worker

from funnelcast import PreparedData, Split
from funnelcast.data.description import Description
from funnelcast.data.prepare import prepare

WORK = Path("build/peers")
SOURCE_ROWS = 125_000  # four fifths of them are TRAIN: about 100 steps an epoch
EPOCHS = 4
PEERS = {"rechub": sizes.MODELS, "deepctr": tuple(name for name in sizes.MODELS if name != "aitm")}
TARGETS = {"shared_bottom": 6.0, "esmm": 4.5, "aitm": 4.0, "mmoe": 2.3, "ple": 2.3}
BF16_TARGETS = {"mmoe": 4.0, "ple": 4.0}


def prepared() -> PreparedData:
    """Draw log-uniform ids of the workload's sizes and prepare them with one bucket an id, unless that is done."""
    folder = WORK / "data"
    if not (folder / "manifest.json").is_file():
        WORK.mkdir(parents=True, exist_ok=True)
        source = WORK / "source.parquet"
        ids = ", ".join(
            f"CAST(pow({size}, hash({field}, i) / 18446744073709551616.0) AS INTEGER) AS f{field}"
            for field, size in enumerate(workload.SIZES)
        )
        labels = "CAST(hash(-1, i) % 25 = 0 AS TINYINT) AS click, CAST(hash(-1, i) % 125 = 0 AS TINYINT) AS conversion"
        duckdb.sql(f"COPY (SELECT i, {ids}, {labels} FROM range({SOURCE_ROWS}) AS t(i)) TO '{source}' (FORMAT parquet)")
        features = [
            {"name": f"f{field}", "encoder": "hash", "buckets": max(2, size)}
            for field, size in enumerate(workload.SIZES)
        ]
        description = {"name": "peers", "source": {"files": [str(source)]}, "features": features}
        split = {"kind": "hash", "column": "i"}
        prepare(Description.model_validate({**description, "steps": [*sizes.STEPS], "split": split}), folder)
        source.unlink()
    return PreparedData(folder)


def rows_for_peers(data: PreparedData) -> Path:
    """Write TRAIN as arrays."""
    path = WORK / "rows.npz"
    rows = data.read(data.row_groups(Split.TRAIN))
    np.savez(path, ids=rows.ids.numpy(), labels=rows.labels.numpy(), sizes=[field.size for field in data.schema.fields])
    return path


def measure(model: str, data: PreparedData, arrays: Path, threads: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return rows/s of every side that has the model, and the numbers in its weights."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    clock = "cpu" if threads == 1 else "wall"
    with ExitStack() as stack:
        sides: dict[str, Worker] = {}
        for precision in ("fp32", "bf16") if model in BF16_TARGETS else ("fp32",):
            arguments = [model, str(data.folder), precision]
            sides[precision] = stack.enter_context(Worker("benchmarks.peers.ours", arguments, environment))
        for peer in (peer for peer, models in PEERS.items() if model in models):
            log = stack.enter_context((WORK / f"{peer}-{model}.log").open("w"))
            worker = Worker(
                f"benchmarks.peers.{peer}", [model, str(arrays)], environment, python=python_of(peer, WORK), log=log
            )
            sides[peer] = stack.enter_context(worker)
        weights = {side: int(worker.ask("size")) for side, worker in sides.items()}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for epoch in range(EPOCHS):
            for side, worker in sides.items():
                found = worker.ask("epoch")
                if epoch:
                    seconds[side].append(found[clock])
    rows = data.rows(Split.TRAIN)
    return {side: rows / statistics.median(values) for side, values in seconds.items()}, weights


def figures(threads: int) -> list[Figure]:
    """Measure every model; CPU time with one thread, wall time with more."""
    for peer in PEERS:
        python_of(peer, WORK)
    data = prepared()
    arrays = rows_for_peers(data)
    found: list[Figure] = []
    for model in sizes.MODELS:
        speed, weights = measure(model, data, arrays, threads)
        peers = {peer: speed[peer] for peer in PEERS if peer in speed}
        best = max(peers, key=peers.__getitem__)
        rates = ", ".join(f"{peer} {rate:,.0f} ({weights[peer]:,} weights)" for peer, rate in peers.items())
        note = f"best of {rates}; ours {weights['fp32']:,} weights"
        for precision, name, targets in (("fp32", model, TARGETS), ("bf16", f"{model}_bf16", BF16_TARGETS)):
            if precision in speed:
                target = targets[model]
                found.append(Figure(f"peers_{name}", speed[precision], peers[best], "rows/s", target, note))
                print(f"{found[-1].name}: {found[-1].ratio:.2f} x {best}", flush=True)
    return found


if __name__ == "__main__":
    run_benchmark(figures, __doc__)
