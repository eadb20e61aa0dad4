"""An exported APEM in ONNX Runtime against PyTorch: 1, 64 and 256 rows at once, one thread, variants in turns.

    python -m benchmarks.export

PyTorch runs in processes of its own: with our compiled layers, without (`FUNNELCAST_NATIVE=off`), and as the exported
program, operator by operator, with all that depends on weights alone computed ahead, as it is in the ONNX file; ONNX
Runtime in one without PyTorch. Sizes are the paper's, K = 64 and L = 4. Fields have 1,000 ids each: the embeddings of
Ali-CCP would make the file 110 MB and leave the layers as they are.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.measure import Figure, run_benchmark
from benchmarks.workers import Worker, serve

from funnelcast.schema import Field, Schema, Step

FIELDS, STEPS, SIZES = 23, 2, (1, 64, 256)
WORDS = {
    "plain": "PyTorch alone",
    "folded": "PyTorch alone, weights folded ahead",
    "native": "PyTorch with our compiled layers",
}
VARIANTS: dict[str, dict[str, str]] = {
    "onnx": {},
    "native": {},
    "plain": {"FUNNELCAST_NATIVE": "off"},
    "folded": {"FUNNELCAST_NATIVE": "off"},
}
TURNS = 15


def schema() -> Schema:
    """Fields and steps of the workload."""
    steps = tuple(Step(name=f"s{i}", reach_rate=0.2 / (i + 1), transition_rate=0.4) for i in range(STEPS))
    return Schema(dataset="benchmark", fields=tuple(Field(name=f"f{i}", size=1000) for i in range(FIELDS)), steps=steps)


def work(variant: str, path: Path) -> None:
    """Be a worker: time one call of each size, in CPU seconds."""
    ids = {rows: np.random.default_rng(rows).integers(0, 1000, (rows, FIELDS)).astype(np.int32) for rows in SIZES}
    if variant == "onnx":
        from funnelcast.serving.scorer import OnnxScorer

        scorer = OnnxScorer(path, path.read_bytes(), schema(), calibrated=False)

        def run(rows: int) -> None:
            scorer.outputs(ids[rows])
    else:
        import torch

        model = folded() if variant == "folded" else build()

        def run(rows: int) -> None:
            with torch.inference_mode():
                model(torch.from_numpy(ids[rows]))

    def seconds(rows: int) -> float:
        started = time.process_time()
        run(rows)
        return time.process_time() - started

    serve({f"rows{rows}": partial(seconds, rows) for rows in SIZES})


def build() -> Any:
    """Build the model, the same in all processes."""
    import torch

    from funnelcast.models.apem import Apem
    from funnelcast.process import prepare_process

    prepare_process()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Apem(schema()).eval()
    with torch.no_grad():
        model.embedding.table.mul_(100.0)
    return model


def folded() -> Any:
    """Build the exported program with what depends on weights alone computed ahead."""
    import torch
    from torch._inductor.constant_folding import constant_fold

    from funnelcast.export.program import to_program

    module = to_program(build(), calibrated=False, portable=False).module(check_guards=False)
    with torch.no_grad():
        constant_fold(module)
    return module


def export(path: Path) -> None:
    """Write the model as ONNX."""
    from funnelcast.export.onnx import Onnx

    Onnx().write(build(), path, calibrated=False)


def figures(threads: int) -> list[Figure]:  # noqa: ARG001 - one thread on both sides
    """Measure all variants in turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "model.onnx"
        export(path)
        workers = {
            name: stack.enter_context(Worker("benchmarks.export", ["--worker", name, "--model", str(path)], given))
            for name, given in VARIANTS.items()
        }
        seconds: dict[tuple[str, int], list[float]] = {}
        for turn in range(TURNS + 3):
            for rows in SIZES:
                for name, worker in workers.items():
                    found = worker.ask(f"rows{rows}")
                    if turn >= 3:  # the first turns warm up
                        seconds.setdefault((name, rows), []).append(found)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    made = []
    for rows in SIZES:
        for name, words in WORDS.items():
            goal = None if name == "native" else 1.0
            ours, other = median["onnx", rows], median[name, rows]
            made.append(Figure(f"onnx_{rows}_{name}", ours, other, "s", goal, f"against {words}"))
    return made


if __name__ == "__main__":
    if "--worker" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--worker", choices=VARIANTS)
        parser.add_argument("--model", type=Path)
        chosen = parser.parse_args()
        work(chosen.worker, chosen.model)
    else:
        run_benchmark(figures, __doc__)
