"""The table of all model benchmarks: 23 fields, 1,531,290 ids as in Ali-CCP, drawn log-uniformly; two steps."""

from __future__ import annotations

import math
from itertools import accumulate

import torch

from funnelcast.batch import Batch
from funnelcast.schema import Field, Schema, Step

# 18 fields of the published Ali-CCP vocabulary and five more.
SIZES = [467_298, 263_942, 238_635, 200_000, 106_399, 104_830, 51_878, 40_000, 37_148, 6_929, 5_888, 5_000]
SIZES += [1_000, 900, 500, 400, 200, 100, 99, 50, 50, 24, 20]
# The 18 fields alone, with 1,283,090 ids.
ALI_CCP = [467_298, 263_942, 238_635, 106_399, 104_830, 51_878, 37_148, 6_929, 5_888, 98, 14, 8, 5, 4, 4, 4, 3, 3]


def schema(fields: int = len(SIZES), steps: int = 2, sizes: list[int] | None = None) -> Schema:
    """Describe the table, or one with another number of fields or steps."""
    chosen = sizes or [SIZES[number % len(SIZES)] for number in range(fields)]
    rates = list(accumulate([0.04] + [0.2] * (steps - 1), lambda a, b: a * b))
    return Schema(
        dataset="benchmark",
        fields=tuple(Field(name=f"f{number}", size=size) for number, size in enumerate(chosen)),
        steps=tuple(
            Step(name=f"s{number}", reach_rate=rate, transition_rate=0.2 if number else 0.04)
            for number, rate in enumerate(rates)
        ),
    )


def draw_rows(table: Schema, rows: int, draw: torch.Generator) -> Batch:
    """Draw rows where the generator is; every label is known, and a step happens only after the former one."""
    columns = [
        torch.exp(torch.rand(rows, generator=draw, device=draw.device) * math.log(field.size))
        .int()
        .clamp_(1, field.size)
        .sub_(1)
        for field in table.fields
    ]
    uniform = torch.rand(rows, 1, generator=draw, device=draw.device)
    labels = uniform < torch.tensor([step.reach_rate for step in table.steps], device=draw.device)
    return Batch.of(torch.stack(columns, dim=1), labels.float())


def batches(table: Schema, rows: int, count: int, seed: int = 0) -> list[Batch]:
    """Draw batches on the CPU."""
    draw = torch.Generator().manual_seed(seed)
    return [draw_rows(table, rows, draw) for _ in range(count)]
