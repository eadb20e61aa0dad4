"""A library's side of the comparison: load the rows, then train one epoch whenever asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workers import serve

# Libraries print while they are imported and while they train: that goes to the log.
_ANSWERS, sys.stdout = sys.stdout, sys.stderr


@dataclass(frozen=True)
class Rows:
    """The rows that every library trains on.

    Args:
        ids: [N, F] int32.
        labels: [N, 2] float32.
        sizes: ids of each field.
    """

    ids: Any
    labels: Any
    sizes: list[int]


def read_rows(path: Path) -> Rows:
    """Read what `benchmarks.peers` wrote."""
    import numpy as np

    with np.load(path) as arrays:
        return Rows(arrays["ids"], arrays["labels"], arrays["sizes"].tolist())


def answer(model: Any, train: Callable[[], Any]) -> None:
    """Serve `size` (numbers in the weights) and `epoch` (its CPU and wall seconds)."""

    def epoch() -> dict[str, float]:
        started = (time.process_time(), time.perf_counter())
        train()
        return {"cpu": time.process_time() - started[0], "wall": time.perf_counter() - started[1]}

    serve({"size": lambda: sum(weight.numel() for weight in model.parameters()), "epoch": epoch}, _ANSWERS)
