"""Two threads beside a busy neighbour: training steps of Shared-Bottom, started as torch does and as the command does.

    python -m benchmarks.neighbour

Rows/s of wall time on all cores, alone and while one foreign process keeps a core busy.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from contextlib import ExitStack

from benchmarks.measure import Figure, run_benchmark
from benchmarks.workers import Worker, serve

BATCH, STEPS, TURNS = 1024, 20, 5


def work(start: str) -> None:
    """Be a worker: answer `train` with rows per second."""
    if start == "command":
        from funnelcast.process import prepare_process

        prepare_process()
    from benchmarks import workload

    from funnelcast.config import Experiment
    from funnelcast.models.shared_bottom import SharedBottom
    from funnelcast.optimizers import build_optimizers
    from funnelcast.train import build_losses, train_step

    table = workload.schema()
    experiment = Experiment.model_validate({"name": "benchmark", "model": {"name": "shared_bottom"}})
    model = SharedBottom(table).train()
    losses, optimizers = build_losses(experiment, table, model), build_optimizers(model, experiment)
    data = workload.batches(table, BATCH, 4)

    def train() -> float:
        started = time.perf_counter()
        for number in range(STEPS):
            train_step(model, losses, optimizers, data[number % len(data)], experiment.train)
        return STEPS * BATCH / (time.perf_counter() - started)

    serve({"train": train})


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def figures(threads: int) -> list[Figure]:
    """Measure both ways to start in turns; the number of threads is theirs to choose."""
    assert threads >= 1
    found = []
    with ExitStack() as stack:
        workers = {
            start: stack.enter_context(Worker("benchmarks.neighbour", ["--worker", start], {}))
            for start in ("torch", "command")
        }
        for name in ("alone", "beside_a_busy_process"):
            neighbour = multiprocessing.Process(target=spin, daemon=True)
            if name != "alone":
                neighbour.start()
            rates: dict[str, list[float]] = {start: [] for start in workers}
            for turn in range(TURNS + 1):
                for start, worker in workers.items():
                    rate = worker.ask("train")
                    if turn:
                        rates[start].append(rate)
            if name != "alone":
                neighbour.kill()
            median = {start: statistics.median(values) for start, values in rates.items()}
            found.append(Figure(f"threads_{name}", median["command"], median["torch"], "rows/s", None, "wall time"))
    return found


if __name__ == "__main__":
    if "--worker" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--worker", choices=["torch", "command"])
        work(parser.parse_args().worker)
    else:
        run_benchmark(figures, __doc__)
