"""Training steps of the other models: the tables' optimizers and bf16, each against torch's default Adam in float32.

    python -m benchmarks.models [--threads 1]

Sizes are those of the comparison with other libraries: layers 256-128, 8 experts, towers of 64.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from funnelcast.process import prepare_process

prepare_process()  # before torch

import torch  # noqa: E402
from benchmarks import roofline, workload  # noqa: E402
from benchmarks.measure import Figure, alternate, run_benchmark  # noqa: E402

from funnelcast.config import Experiment  # noqa: E402
from funnelcast.optimizers import Optimizers, build_optimizers  # noqa: E402
from funnelcast.registry import MODELS  # noqa: E402
from funnelcast.train import build_losses, train_step  # noqa: E402

BATCH, PIECES, WIDTH = 1024, 4, 18
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "shared_bottom": {"bottom": (256, 128)},
    "esmm": {"hidden": (256, 128, 64)},
    "aitm": {},
    "mmoe": {"experts": 8},
    "ple": {"expert_hidden": (256, 128)},
}
VARIANTS = {
    "default": ("adam", "fp32"),
    "fused": ("adam", "fp32"),
    "deferred": ("deferred_adam", "fp32"),
    "lazy": ("lazy_adam", "fp32"),
    "bf16": ("deferred_adam", "bf16"),
}


def trainer(name: str, variant: str) -> Callable[[], None]:
    """Build a model and return what trains it on a few batches."""
    table = workload.schema()
    embedding, precision = VARIANTS[variant]
    experiment = Experiment.model_validate(
        {
            "name": "benchmark",
            "model": {"name": name, **MODEL_OPTIONS[name]},
            "train": {"precision": precision},
            "optimizer": {"embedding": embedding},
        }
    )
    torch.manual_seed(0)
    model = MODELS.create(name, table, options=MODEL_OPTIONS[name]).train()
    losses, optimizers = build_losses(experiment, table, model), build_optimizers(model, experiment)
    if variant == "default":
        optimizers = Optimizers([torch.optim.Adam(model.parameters(), lr=1e-3)])
    data = workload.batches(table, BATCH, PIECES)

    def run() -> None:
        for batch in data:
            train_step(model, losses, optimizers, batch, experiment.train)

    return run


def figures(threads: int) -> list[Figure]:
    """Measure every model in every variant; CPU time with one thread, wall time with more."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    rows, found = BATCH * PIECES, []
    table, limits = workload.schema(), roofline.ceilings(clock)
    table_bytes = roofline.table_bytes_per_row(table, workload.batches(table, BATCH, 1)[0], WIDTH)
    for name in MODEL_OPTIONS:
        trainers = {variant: trainer(name, variant) for variant in VARIANTS}
        flops = roofline.flops_per_row(trainers["default"], rows)
        seconds = alternate(trainers, repeats=5, clock=clock)
        figure = partial(Figure, baseline=rows / seconds["default"], unit="rows/s", target=None)
        for variant in list(VARIANTS)[1:]:
            rate = rows / seconds[variant]
            note = roofline.note(flops, table_bytes, rate, limits, bf16=variant == "bf16")
            found.append(figure(name=f"{name}_{variant}", ours=rate, note=note))
    return found


if __name__ == "__main__":
    run_benchmark(figures, __doc__)
