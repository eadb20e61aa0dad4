"""How every benchmark measures: variants take turns, the median counts, one thread's CPU time unless stated.

A benchmark is a module of this folder with `figures(threads) -> list[Figure]`; `python -m benchmarks.<name>` prints its
table, and `python -m benchmarks` runs all of them and writes `build/bench.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured comparison.

    Args:
        name: such as `apem_train`.
        ours: our figure.
        baseline: the figure of what it is compared with, measured in the same run.
        unit: such as `rows/s`; for units that end in `s` without a slash, or in bytes, less is better.
        target: the ratio that is aimed at, in the direction of `ratio`; None where there is none.
        note: what the baseline is, and the roofline where there is one.
    """

    name: str
    ours: float
    baseline: float
    unit: str
    target: float | None
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times better ours is: above 1 is better, whatever the unit."""
        return self.ours / self.baseline if self.unit.endswith("/s") else self.baseline / self.ours

    def to_json(self) -> dict[str, float | str | None]:
        """Return JSON values with the ratio."""
        return {**asdict(self), "ratio": self.ratio}


def alternate(
    variants: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    warm_up: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Run variants in turns A B A B ... and return the median seconds of each.

    Args:
        variants: what to run, by name.
        repeats: timed runs of each.
        warm_up: runs of each before the timed ones.
        clock: `time.process_time` (CPU seconds, all threads) or `time.perf_counter` (wall).
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warm_up + repeats):
        for name, run in variants.items():
            started = clock()
            run()
            if turn >= warm_up:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(figures: list[Figure]) -> None:
    """Print a table."""
    print(f"{'name':34} {'ours':>12} {'baseline':>12} {'ratio':>7} {'target':>7}  unit")
    for figure in figures:
        target = "" if figure.target is None else f"{figure.target:.1f}"
        print(
            f"{figure.name:34} {figure.ours:12,.4g} {figure.baseline:12,.4g} {figure.ratio:7.2f} {target:>7}  "
            f"{figure.unit}{'; ' + figure.note if figure.note else ''}",
            flush=True,
        )


def run_benchmark(figures: Callable[[int], list[Figure]], document: str | None) -> None:
    """Be the main program of a benchmark: read the options, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of the computation (default 1)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") not in (None, str(options.threads)):
        parser.error(f"OMP_NUM_THREADS should be unset or {options.threads}")
    found = figures(options.threads)
    show(found)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([figure.to_json() for figure in found], indent=2) + "\n")
