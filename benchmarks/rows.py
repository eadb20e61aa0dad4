"""Training time against rows: one epoch of Shared-Bottom on 0.25 to 4 M simulated rows, in memory and streamed.

    python -m benchmarks.rows [--work build/bench-rows] [--keep]

Seconds are wall time of the epoch on one thread, reading included, scoring of VALID not.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from funnelcast.process import prepare_process

prepare_process()  # before torch

import torch  # noqa: E402

from funnelcast.config import Experiment  # noqa: E402
from funnelcast.data.prepare import prepare  # noqa: E402
from funnelcast.data.shards import PreparedData  # noqa: E402
from funnelcast.registry import DATASETS  # noqa: E402
from funnelcast.train import fit  # noqa: E402

MILLIONS = [0.25, 0.5, 1.0, 2.0, 4.0]


def prepared(folder: Path, rows: int) -> PreparedData:
    """Simulate and prepare so many rows, of which nine tenths are TRAIN, unless it is done."""
    if not (folder / "manifest.json").is_file():
        raw = folder.with_name(f"{folder.name}-raw")
        raw.mkdir(parents=True)
        prepare(DATASETS.create("synthetic", options={"rows": rows}).describe(None, raw), folder)
        shutil.rmtree(raw)
    return PreparedData(folder)


def seconds(folder: Path, data: PreparedData, memory_gb: float) -> tuple[int, float]:
    """Train one epoch and return its rows and seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    train = {"epochs": 1, "device": "cpu", "memory_gb": memory_gb}
    fit(folder, data, Experiment.model_validate({"name": "rows", "model": {"name": "shared_bottom"}, "train": train}))
    history = json.loads((folder / "history.json").read_text())
    shutil.rmtree(folder)
    return history["rows"], history["train_seconds"]


def main() -> None:
    """Measure and print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bench-rows"))
    parser.add_argument("--keep", action="store_true", help="keep the prepared folders for the next time")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| TRAIN rows | seconds in memory | rows/s | seconds streamed | rows/s |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    for millions in MILLIONS:
        data = prepared(chosen.work / f"data-{millions}", int(millions * 1e6))
        cells = []
        for memory_gb in (8.0, 1e-6):
            rows, took = seconds(chosen.work / "run", data, memory_gb)
            cells += [f"{took:.1f}", f"{rows / took:,.0f}"]
        print(f"| {rows:,} | {' | '.join(cells)} |", flush=True)
    if not chosen.keep:
        shutil.rmtree(chosen.work)


if __name__ == "__main__":
    main()
