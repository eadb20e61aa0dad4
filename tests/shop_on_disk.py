"""A shop's few rows, written down and prepared: what tests about kinds of steps share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.data.description import Description
from funnelcast.data.prepare import prepare


def describe_shop(source: Path, steps: list[Any], **changes: Any) -> Description:
    """Describe rows with one feature `item` and their part in the column `part`."""
    data: dict[str, Any] = {
        "name": "shop",
        "source": {"files": [str(source)]},
        "features": [{"name": "item"}],
        "steps": steps,
        "split": {"kind": "column", "column": "part"},
    }
    return Description.model_validate(data | changes)


def prepare_shop(folder: Path, steps: list[Any], columns: dict[str, Any], **changes: Any) -> Path:
    """Write the columns into `folder` and prepare them in its folder `out`."""
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    prepare(describe_shop(folder / "rows.parquet", steps, **changes), folder / "out")
    return folder / "out"
