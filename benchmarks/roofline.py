"""What a figure could be at most: the machine's measured ceilings, and what a row asks of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from funnelcast.batch import Batch
from funnelcast.schema import Schema

_SIZE, _REPEATS, _COPIED = 2048, 5, 1 << 28
# Weight and two moments are read and written, the row is gathered, and its gradient is written.
TOUCHES = 8


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of the threads in use.

    Args:
        fp32: FLOP/s of a float32 product of 2048 x 2048.
        bf16: FLOP/s of the same in bfloat16.
        copy: bytes/s read and written by a copy that no cache holds.
    """

    fp32: float
    bf16: float
    copy: float


def ceilings(clock: Callable[[], float]) -> Ceilings:
    """Measure the machine.

    Args:
        clock: `time.process_time` or `time.perf_counter`.
    """

    def seconds(work: Callable[[], object]) -> float:
        work()
        started = clock()
        for _ in range(_REPEATS):
            work()
        return (clock() - started) / _REPEATS

    left, right = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)
    halves = left.bfloat16(), right.bfloat16()
    source, target = torch.ones(_COPIED, dtype=torch.uint8), torch.empty(_COPIED, dtype=torch.uint8)
    flops = 2.0 * _SIZE**3
    return Ceilings(
        flops / seconds(lambda: torch.mm(left, right)),
        flops / seconds(lambda: torch.mm(*halves)),
        2.0 * _COPIED / seconds(lambda: target.copy_(source)),
    )


def flops_per_row(run: Callable[[], object], rows: int) -> float:
    """Count the floating-point operations of PyTorch's own operators.

    Args:
        run: computes `rows` rows.
        rows: >= 1.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / rows


def table_bytes_per_row(table: Schema, batch: Batch, width: int) -> float:
    """Count the bytes of embedding rows that a training step moves for each of its rows.

    Args:
        table: the fields.
        batch: a usual batch.
        width: D.
    """
    distinct = sum(len(batch.ids[:, number].unique()) for number in range(len(table.fields)))
    return distinct * width * 4.0 * TOUCHES / len(batch)


def note(flops: float, table_bytes: float, rate: float, found: Ceilings, *, bf16: bool = False) -> str:
    """Say in a few words what a row asks for and what share of the ceilings a rate reaches.

    Args:
        flops: of a row.
        table_bytes: of a row.
        rate: rows/s.
        found: the machine's limits.
        bf16: whether products are in bfloat16.
    """
    ceiling, kind = (found.bf16, "bf16") if bf16 else (found.fp32, "float32")
    return (
        f"{flops / 1e6:.2f} MFLOP and {table_bytes / 1e3:.1f} KB of tables a row, {rate * flops / ceiling:.0%} of the "
        f"{kind} product's {ceiling / 1e9:.0f} GFLOP/s, {rate * table_bytes / found.copy:.0%} of a copy's "
        f"{found.copy / 1e9:.0f} GB/s"
    )


if __name__ == "__main__":
    print(ceilings(time.process_time))
