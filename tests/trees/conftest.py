"""Prepared folders with every kind of field, made of raw rows as the command line would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.data.description import ColumnSplit, Description, Feature, Source, StepColumn, TargetStatistics
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData

MakeData = Callable[..., PreparedData]
STEPS = ("click", "cart", "order", "pay", "keep")


def raw_rows(rows: int, steps: int, seed: int = 0) -> dict[str, Any]:
    """Rows whose funnel depends on the item, the price and a tag."""
    draw = np.random.default_rng(seed)
    item, price = draw.integers(0, 30, rows), np.round(draw.gamma(2.0, 5.0, rows), 1)
    tags = [sorted(set(draw.choice(["new", "red", "big", "old"], n).tolist())) for n in draw.integers(0, 4, rows)]
    odds = -0.6 + 0.1 * (item - 15) + 1.2 * np.array(["red" in cell for cell in tags])
    columns: dict[str, Any] = {
        "item": item,
        "price": pa.array(price, mask=draw.random(rows) < 0.1),
        "tags": pa.array(tags, pa.list_(pa.string())),
        "user": draw.integers(0, 40, rows),
        "part": np.where(np.arange(rows) % 10 < 6, "train", np.where(np.arange(rows) % 10 < 8, "valid", "test")),
    }
    reached = np.ones(rows, np.bool_)
    for step in STEPS[:steps]:
        reached &= draw.random(rows) < 1 / (1 + np.exp(-odds - 0.8))
        columns[step] = reached.astype(np.int8)
    return columns


@pytest.fixture
def make_data(tmp_path: Path) -> MakeData:
    """Return a function that prepares rows of `raw_rows`.

    It takes columns that are replaced or added, and the share of each step's labels that is hidden.
    """

    def make(
        name: str = "data",
        *,
        rows: int = 600,
        steps: int = 2,
        columns: Mapping[str, Any] | None = None,
        unknown: Mapping[str, float] | None = None,
        features: tuple[Feature, ...] | None = None,
        weight: str | None = None,
    ) -> PreparedData:
        raw = raw_rows(rows, steps) | dict(columns or {})
        for step, share in (unknown or {}).items():
            raw[step] = pa.array(raw[step], mask=np.random.default_rng(1).random(rows) < share)
        pq.write_table(pa.table(raw), tmp_path / f"{name}.parquet")
        description = Description(
            name="shop",
            source=Source(files=(str(tmp_path / f"{name}.parquet"),)),
            features=features
            or (
                Feature(name="item"),
                Feature(name="tags", kind="multi", max_length=3),
                Feature(name="price", kind="numeric"),
            ),
            steps=tuple(StepColumn(name=step) for step in STEPS[:steps]),
            split=ColumnSplit(kind="column", column="part"),
            user="user",
            weight=weight,
            target_statistics=(TargetStatistics(columns=("item",), buckets=4),) if features is None else (),
        )
        prepare(description, tmp_path / name)
        return PreparedData(tmp_path / name)

    return make
