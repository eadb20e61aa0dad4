"""APEM on a GPU: errors against float64, then rows/s of training and scoring with our kernels against PyTorch alone.

    python -m benchmarks.gpu [--rows 38000000] [--compile] [--json build/gpu.json]

The table has the size of Ali-CCP: 18 fields with 1,283,090 ids and 38 M rows, drawn on the device, where each step
picks its rows. Wall time, the device's work included; variants take turns, the median counts. Adam on the whole table,
as `auto` chooses on a GPU. `--compile` adds torch.compile(mode="reduce-overhead") around the model, which replays CUDA
graphs.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks import workload
from benchmarks.measure import Figure, alternate, show

from funnelcast.batch import Batch
from funnelcast.config import Experiment
from funnelcast.models.apem import Apem
from funnelcast.native import gpu_state, native_state
from funnelcast.native.build import SWITCH
from funnelcast.optimizers import build_optimizers
from funnelcast.schema import Schema
from funnelcast.train import build_losses, train_step

ROWS, BATCHES, CHECKED_ROWS = 38_000_000, (1024, 16_384), 512
# Largest errors of the kernels in float32: of a reach, and of a gradient relative to the largest number of its tensor.
REACH_ERROR, GRADIENT_ERROR = 1e-5, 1e-3


@dataclass(frozen=True)
class Variant:
    """How a step is computed.

    Args:
        kernels: ours, or PyTorch alone.
        precision: `fp32`, `tf32` or `bf16`.
        compiled: whether torch.compile wraps the model.
    """

    kernels: bool
    precision: str
    compiled: bool = False

    def set_up(self) -> None:
        """Make this process compute so from now on."""
        os.environ[SWITCH] = "on" if self.kernels else "off"
        gpu_state.cache_clear()
        native_state.cache_clear()
        torch.backends.cuda.matmul.fp32_precision = "tf32" if self.precision == "tf32" else "ieee"

    def __str__(self) -> str:
        words = ["kernels" if self.kernels else "pytorch", "compiled" * self.compiled, self.precision]
        return "_".join(filter(None, words))


def check(table: Schema, device: torch.device) -> bool:
    """Print the errors of reach and gradients against the folded form in float64; float32 has to keep the bounds."""
    draw = torch.Generator(device).manual_seed(1)
    batch = workload.draw_rows(table, CHECKED_ROWS, draw)
    experiment = Experiment.model_validate({"name": "check", "model": {"name": "apem"}})
    torch.manual_seed(0)
    model = Apem(table).to(device).train()
    model.set_progress(0.2)
    losses = build_losses(experiment, table, model)
    precise = copy.deepcopy(model).double()

    def run(one: Apem, precision: str) -> list[torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            prediction = one(batch.ids)
        one.zero_grad(set_to_none=True)
        sum(loss(prediction, batch).value.sum() for loss in losses).backward()  # type: ignore[union-attr]
        gradients = [p.grad for name, p in sorted(one.named_parameters()) if p.grad is not None]
        return [prediction.reach.detach(), *gradients]

    expected, kept = run(precise, "fp32"), True
    for precision in ("fp32", "tf32", "bf16"):
        Variant(kernels=True, precision=precision).set_up()
        found, again = run(model, precision), run(model, precision)
        errors = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
        scales = [float(value.abs().max()) for value in expected]
        gradient = max(e / max(scale, 1e-12) for e, scale in zip(errors[1:], scales[1:], strict=True))
        same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        print(f"check {precision}: reach to {errors[0]:.1e}, gradients to {gradient:.1e}; repeats bit by bit: {same}")
        if precision == "fp32":
            kept = errors[0] <= REACH_ERROR and gradient <= GRADIENT_ERROR
    return kept


class Steps:
    """A model that trains or scores on batches of a table.

    Args:
        table: the fields.
        rows: the table's rows, on the device.
        order: [n] int64 rows in the order in which they are picked.
        batch: rows of a batch.
        steps: batches of a turn.
        variant: how to compute.
    """

    def __init__(
        self, table: Schema, rows: Batch, order: torch.Tensor, batch: int, steps: int, variant: Variant
    ) -> None:
        self.rows, self.variant, self.device = rows, variant, rows.ids.device
        self.picks = order[: batch * steps].split(batch)
        precision = "bf16" if variant.precision == "bf16" else "fp32"
        self.experiment = Experiment.model_validate(
            {"name": "gpu", "model": {"name": "apem"}, "train": {"precision": precision}}
        )
        torch.manual_seed(0)
        model = Apem(table).to(self.device).train()
        model.set_progress(0.2)
        self.losses = build_losses(self.experiment, table, model)
        self.optimizers = build_optimizers(model, self.experiment)
        self.model: Any = torch.compile(model, mode="reduce-overhead") if variant.compiled else model

    def train(self) -> None:
        """Take one turn of training steps."""
        self._go_through(
            lambda batch: train_step(self.model, self.losses, self.optimizers, batch, self.experiment.train)
        )

    def score(self) -> None:
        """Take one turn of scoring."""
        with torch.inference_mode():
            self._go_through(lambda batch: self.model(batch.ids))

    def _go_through(self, work: Callable[[Batch], object]) -> None:
        self.variant.set_up()
        for pick in self.picks:
            work(self.rows.take(pick))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def figures(
    device: torch.device, rows: int, batches: Sequence[int] = BATCHES, turn: int = 1 << 18, *, compiled: bool = False
) -> list[Figure]:
    """Measure every variant; `turn` is about how many rows a timed turn takes."""
    table = workload.schema(sizes=workload.ALI_CCP)
    drawn = workload.draw_rows(table, rows, torch.Generator(device).manual_seed(0))
    order = torch.randperm(rows, device=device)
    found = []
    for batch in batches:
        for precision in ("fp32", "tf32", "bf16"):
            variants = [Variant(kernels, precision) for kernels in (True, False)]
            variants += [Variant(True, precision, compiled=True)] * compiled
            steps = max(1, min(turn, rows) // batch)
            runs = {variant: Steps(table, drawn, order, batch, steps, variant) for variant in variants}
            for name in ("train", "score") if precision != "bf16" else ("train",):  # scoring stays in float32
                work = {str(variant): getattr(run, name) for variant, run in runs.items()}
                seconds = alternate(work, repeats=5, warm_up=2, clock=time.perf_counter)
                speed = {variant: steps * batch / spent for variant, spent in seconds.items()}
                slow = speed.pop(f"pytorch_{precision}")
                make = partial(Figure, baseline=slow, unit="rows/s", target=None, note="against PyTorch alone")
                found += [make(name=f"{name}_{batch}_{variant}", ours=fast) for variant, fast in speed.items()]
    return found


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of the table (default {ROWS:,})")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile around the model")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: there should be a CUDA device, received a machine without one")
    device = torch.device("cuda", torch.cuda.current_device())
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, kernels: {gpu_state().line}")
    if not check(workload.schema(sizes=workload.ALI_CCP), device):
        sys.exit(f"benchmarks.gpu: float32 should be exact to {REACH_ERROR} (reach) and {GRADIENT_ERROR} (gradients)")
    found = figures(device, options.rows, compiled=options.compile)
    show(found)
    print(f"peak memory of the device: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([figure.to_json() for figure in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
