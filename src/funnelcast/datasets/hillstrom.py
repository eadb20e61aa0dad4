"""Hillstrom: a randomised e-mail campaign."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb

from funnelcast.data.description import ColumnSplit, Description, Feature, Source, StepColumn
from funnelcast.data.sql import identifier, literal
from funnelcast.datasets._locate import locate
from funnelcast.errors import DataError
from funnelcast.registry import DATASETS

__all__ = ["Hillstrom"]

CATEGORIES = ("recency", "history_segment", "mens", "womens", "zip_code", "newbie", "channel", "segment")
STEPS = ("visit", "conversion")
ROW = "row_id"


@DATASETS.register
class Hillstrom:
    """MineThatData e-mail test: customer -> visit -> conversion.

    One row is one customer who was put at random into one of three arms (`segment`). There are no times, so the rows
    0..6 of every ten are TRAIN, 7 is VALID, 8 and 9 are TEST, by their number in the published file, from 0. `spend` is
    an outcome and never a feature. With 115 conversions on TEST the AUC of the last step has a standard error near
    0.025.

    Args:
        buckets: equal-mass buckets of `history`, the dollars of the past year, >= 2.

    Source: Kevin Hillstrom, MineThatData E-Mail Analytics and Data Mining Challenge, 2008-03-20.
    """

    terms: ClassVar[str] = "Published by Kevin Hillstrom for anyone to analyse; no formal licence."
    where: ClassVar[str] = (
        "the CSV of the MineThatData E-Mail Analytics And Data Mining Challenge, "
        "https://blog.minethatdata.com/2008/03/minethatdata-e-mail-analytics-and-data.html, or the same rows with a "
        "column row_id as emails.parquet."
    )

    def __init__(self, *, buckets: int = 32) -> None:
        self.features = (
            *(Feature(name=name) for name in CATEGORIES),
            Feature(name="history", kind="numeric", encoder="quantile", buckets=buckets),
        )

    def describe(self, source: Path | None, work: Path) -> Description:
        """Write the rows with their part into `work` and describe them.

        Args:
            source: the published CSV, the Parquet file, or the folder of either (`emails.parquet`, `emails.csv`).
            work: folder for `hillstrom.parquet`.

        Raises:
            DataError: the file is missing, unreadable, or lacks columns.
        """
        raw, path = locate(type(self), source, "emails.parquet", "emails.csv"), work / "hillstrom.parquet"
        _add_split(raw, path)
        return Description(
            name="hillstrom",
            source=Source(files=(str(path),), format="parquet"),
            features=self.features,
            steps=tuple(StepColumn(name=step) for step in STEPS),
            split=ColumnSplit(kind="column", column="split"),
        )


def _add_split(raw: Path, path: Path) -> None:
    """Copy the used columns, in the order of the rows, with the part of each row."""
    parquet = raw.suffix.lower() in (".parquet", ".pq")
    reader = f"read_parquet({literal(str(raw))})" if parquet else f"read_csv({literal(str(raw))}, header = true)"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with duckdb.connect(config={"threads": 1}) as connection:
        try:
            found = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()]
            wanted = [*CATEGORIES, "history", *STEPS]
            missing = [column for column in wanted if column not in found]
            if missing:
                raise DataError(
                    f"{raw}: should have the column(s) {', '.join(missing)}, received only {', '.join(found)}"
                )
            row = identifier(ROW) if ROW in found else "row_number() OVER () - 1"
            part = f"CASE WHEN {ROW} % 10 < 7 THEN 'train' WHEN {ROW} % 10 = 7 THEN 'valid' ELSE 'test' END"
            columns = ", ".join(identifier(column) for column in wanted)
            rows = f"SELECT {row} AS {ROW}, {columns} FROM {reader}"
            query = f"SELECT *, {part} AS split FROM ({rows}) ORDER BY {ROW}"
            connection.execute(f"COPY ({query}) TO {literal(str(temporary))} (FORMAT parquet)")
        except duckdb.Error as error:
            temporary.unlink(missing_ok=True)
            raise DataError(f"{raw}: should be a readable table, received: {str(error).splitlines()[0]}") from error
    temporary.replace(path)
