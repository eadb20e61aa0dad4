"""APEM: whole training steps, scoring and memory against the straightforward form with torch's default Adam.

    python -m benchmarks.apem [--threads 1]

Ours runs as the command line starts it (allocator, sleeping threads); the straightforward form in torch's default
environment. Rows/s are of CPU time with one thread and of wall time with more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict

from benchmarks.measure import Figure, run_benchmark
from benchmarks.workers import Worker, peak_bytes, serve

BATCH, LARGE_BATCH = 1024, 16_384
VARIANTS: dict[str, dict[str, str]] = {
    "ours": {},
    "fallback": {"FUNNELCAST_NATIVE": "off"},
    "straightforward": {"FUNNELCAST_NATIVE": "off"},
}
TURNS, STEPS = 7, 4
CEILINGS = ("fp32", "bf16", "copy")


def work(variant: str, threads: int) -> None:
    """Be a worker: build the model and answer `train`, `score`, `memory`, `limits`."""
    if variant != "straightforward":
        from funnelcast.process import prepare_process

        prepare_process()
    import torch
    from benchmarks import roofline, workload
    from benchmarks.straightforward import Straightforward

    from funnelcast.batch import Batch
    from funnelcast.config import Experiment
    from funnelcast.models.apem import Apem
    from funnelcast.optimizers import Optimizers, build_optimizers
    from funnelcast.train import build_losses, train_step

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = workload.schema()
    experiment = Experiment.model_validate({"name": "benchmark", "model": {"name": "apem"}})
    built = Apem(table)
    built.train().set_progress(0.2)
    losses = build_losses(experiment, table, built)
    if variant == "straightforward":
        model: torch.nn.Module = Straightforward(built).train()
        optimizers = Optimizers([torch.optim.Adam(model.parameters(), lr=1e-3)])
    else:
        model, optimizers = built, build_optimizers(built, experiment)
    data = workload.batches(table, BATCH, 8)
    clock = time.process_time if threads == 1 else time.perf_counter

    def train(batch: Batch) -> None:
        train_step(model, losses, optimizers, batch, experiment.train)  # type: ignore[arg-type]

    def score(batch: Batch) -> None:
        with torch.inference_mode():
            model(batch.ids)

    def rows_per_second(run: Callable[[Batch], None]) -> float:
        started = clock()
        for number in range(STEPS):
            run(data[number % len(data)])
        return STEPS * BATCH / (clock() - started)

    def memory() -> int:
        (large,) = workload.batches(table, LARGE_BATCH, 1)
        train(data[0])  # the optimizer's state is there before
        return peak_bytes(lambda: train(large))

    def limits() -> dict[str, float]:
        return {
            "score": roofline.flops_per_row(lambda: score(data[0]), BATCH),
            "train": roofline.flops_per_row(lambda: train(data[0]), BATCH),
            "bytes": roofline.table_bytes_per_row(table, data[0], 18),
            **asdict(roofline.ceilings(clock)),
        }

    serve(
        {
            "train": lambda: rows_per_second(train),
            "score": lambda: rows_per_second(score),
            "memory": memory,
            "limits": limits,
        }
    )


def figures(threads: int) -> list[Figure]:
    """Measure all variants in turns."""
    from benchmarks import roofline  # loads torch, which a worker does later

    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("benchmarks.apem", ["--worker", name, "--threads", str(threads)], given))
            for name, given in VARIANTS.items()
        }
        rates: dict[tuple[str, str], list[float]] = {}
        for turn in range(TURNS + 1):
            for what in ("train", "score"):
                for name, worker in workers.items():
                    rate = worker.ask(what)
                    if turn:  # the first turn warms up
                        rates.setdefault((what, name), []).append(rate)
        rate_of = {key: statistics.median(values) for key, values in rates.items()}
        limits = workers["straightforward"].ask("limits")
        memory = {name: worker.ask("memory") for name, worker in workers.items()}
    found = []
    goals = {("train", "ours"): 5.0, ("train", "fallback"): 2.0, ("score", "ours"): 3.5, ("score", "fallback"): None}
    for (what, name), goal in goals.items():
        rate = rate_of[what, name]
        moved = limits["bytes"] / (1 if what == "train" else roofline.TOUCHES)  # scoring gathers alone
        note = roofline.note(limits[what], moved, rate, roofline.Ceilings(**{k: limits[k] for k in CEILINGS}))
        suffix = "" if name == "ours" else "_fallback"
        found.append(Figure(f"apem_{what}{suffix}", rate, rate_of[what, "straightforward"], "rows/s", goal, note))
    for name, suffix in (("ours", ""), ("fallback", "_fallback")):
        note = f"peak of a training step at batch {LARGE_BATCH:,}"
        ours, baseline = float(memory[name]), float(memory["straightforward"])
        found.append(Figure(f"apem_memory{suffix}", ours, baseline, "B", 5.0 if not suffix else None, note))
    return found


if __name__ == "__main__":
    if "--worker" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--worker", choices=VARIANTS)
        parser.add_argument("--threads", type=int)
        chosen = parser.parse_args()
        work(chosen.worker, chosen.threads)
    else:
        run_benchmark(figures, __doc__)
