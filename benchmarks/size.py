"""Cost against size: microseconds of CPU time a row and training step, as one size changes at a time; one thread.

    python -m benchmarks.size [--json build/size.json]

The base is 23 fields, 2 steps and the default sizes of each model, at batch 1024. "Growth" is the cost's growth by the
size's growth: 1 is linear, 0 is no growth at all.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from funnelcast.process import prepare_process

prepare_process()  # before torch

import torch  # noqa: E402
from benchmarks import workload  # noqa: E402
from benchmarks.measure import alternate  # noqa: E402

from funnelcast.config import Experiment  # noqa: E402
from funnelcast.optimizers import build_optimizers  # noqa: E402
from funnelcast.registry import MODELS  # noqa: E402
from funnelcast.train import build_losses, train_step  # noqa: E402

BATCH = 1024
FIELDS, STEPS = [10, 23, 50, 100], [2, 3, 5, 8]
POINTS, LAYERS = [16, 32, 64, 128, 256], [1, 2, 4, 8]
IDS = [100_000, 400_000, 1_600_000, 6_400_000]


def cost(model_name: str, *, fields: int = 23, steps: int = 2, ids: int | None = None, **options: int) -> float:
    """Return microseconds a row of a training step."""
    sizes = None if ids is None else [max(20, round(size * ids / sum(workload.SIZES))) for size in workload.SIZES]
    table = workload.schema(fields, steps, sizes)
    torch.manual_seed(0)
    experiment = Experiment.model_validate({"name": "size", "model": {"name": model_name, **options}})
    model = MODELS.create(model_name, table, options=options).train()
    model.set_progress(0.2)
    losses, optimizers = build_losses(experiment, table, model), build_optimizers(model, experiment)
    data = workload.batches(table, BATCH, 4)

    def run() -> None:
        for batch in data:
            train_step(model, losses, optimizers, batch, experiment.train)

    return alternate({"run": run}, repeats=3)["run"] / (len(data) * BATCH) * 1e6


def measure() -> Iterator[tuple[str, str, list[int], list[float]]]:
    """Yield what changes, the model, the sizes and their costs."""
    for name in ("apem", "mmoe", "shared_bottom"):
        yield "fields", name, FIELDS, [cost(name, fields=size) for size in FIELDS]
        yield "steps", name, STEPS, [cost(name, steps=size) for size in STEPS]
        yield "ids of the tables", name, IDS, [cost(name, ids=size) for size in IDS]
    yield "inducing points", "apem", POINTS, [cost("apem", inducing_points=size) for size in POINTS]
    yield "layers", "apem", LAYERS, [cost("apem", layers=size) for size in LAYERS]


def main() -> None:
    """Measure and print one line a model and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    print("| what changes | model | sizes | µs a row | growth |\n| --- | --- | --- | --- | --- |")
    for what, name, sizes, costs in measure():
        growth = [math.log(costs[i + 1] / costs[i]) / math.log(sizes[i + 1] / sizes[i]) for i in range(len(sizes) - 1)]
        found.append({"what": what, "model": name, "sizes": sizes, "microseconds": costs, "growth": growth})
        cells = [", ".join(f"{v:,}" for v in sizes), ", ".join(f"{v:,.0f}" for v in costs)]
        print(f"| {what} | {name} | {cells[0]} | {cells[1]} | {', '.join(f'{v:.2f}' for v in growth)} |", flush=True)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
