"""Fits all encoders on the staged rows of TRAIN."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.data.cells import BLANKS, numbers
from funnelcast.data.description import Description, Feature
from funnelcast.data.encode import ColumnEncoder
from funnelcast.data.encode_categories import HashBuckets, Multi, Vocabulary
from funnelcast.data.encode_numbers import LogRound, Quantile
from funnelcast.data.sql import identifier, literal
from funnelcast.data.stage import PART
from funnelcast.progress import RowProgress

__all__ = ["fit_columns", "quantile_lows"]


def fit_columns(
    connection: duckdb.DuckDBPyConnection, description: Description, staged: Path, progress: RowProgress
) -> list[ColumnEncoder]:
    """Fit one encoder a feature.

    Args:
        connection: the database.
        description: the dataset file.
        staged: the staged Parquet file.
        progress: counts the staged rows once a feature.

    Raises:
        DataError: a column's values do not suit its encoder.
    """
    rows = pq.read_metadata(staged).num_rows

    def fit(feature: Feature) -> ColumnEncoder:
        encoder = _fit(connection.cursor(), feature, staged)
        progress.advance(rows, note=feature.name)
        return encoder

    # Two at once: sorting and what Python does of one beside the counting of the other.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(fit, description.features))


def _fit(connection: duckdb.DuckDBPyConnection, feature: Feature, staged: Path) -> ColumnEncoder:
    train = f"read_parquet({literal(str(staged))}) WHERE {identifier(PART)} = 0"
    name, column = feature.name, feature.column
    if feature.encoder == "hash":
        return HashBuckets(name, column, feature.buckets, Multi.of(feature))
    if feature.encoder == "log_round":
        return LogRound(name, column, feature.scale, _seen_numbers(feature, staged))
    if feature.encoder == "quantile":
        return Quantile(name, column, quantile_lows(connection, identifier(column), train, feature.buckets))
    values = f"SELECT {identifier(column)} AS value FROM {train}"
    if feature.kind == "multi":
        values = f"SELECT unnest({_items(feature, staged)}) AS value FROM {train}"
    found: pa.Table = connection.sql(
        f"SELECT value FROM ({values}) WHERE value IS NOT NULL GROUP BY value HAVING count(*) >= {feature.min_count} "
        "ORDER BY count(*) DESC, value"
    ).to_arrow_table()
    return Vocabulary.fit(name, column, found["value"].combine_chunks(), Multi.of(feature))


def _items(feature: Feature, staged: Path) -> str:
    """The items of a multi-valued cell as an SQL list, by the rules of `cells.split_cells`."""
    column, blanks = identifier(feature.column), literal(BLANKS)
    item = pq.read_schema(staged).field(feature.column).type
    if feature.separator is not None:
        column = f"string_split({column}, {literal(feature.separator)})"
    else:
        item = item.value_type
    known = "x IS NOT NULL"
    if pa.types.is_string(item):
        column, known = f"list_transform({column}, lambda x: trim(x, {blanks}))", "x <> ''"
    elif pa.types.is_floating(item):
        known = "x IS NOT NULL AND NOT isnan(x)"
    return f"list_filter({column}, lambda x: {known})[1:{feature.max_length}]"


def _seen_numbers(feature: Feature, staged: Path) -> tuple[int, ...]:
    """Bucket numbers of a column on TRAIN, computed by the encoder itself: SQL could round the last bit otherwise."""
    seen: set[int] = set()
    with pq.ParquetFile(staged) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=[feature.column, PART], use_threads=False)
            x = numbers(table[feature.column].combine_chunks(), feature.column)
            x = x[(table[PART].to_numpy() == 0) & np.isfinite(x)]
            seen.update(np.unique(LogRound.bucket_numbers(x, feature.scale)).tolist())
    return tuple(sorted(seen))


def quantile_lows(connection: duckdb.DuckDBPyConnection, value: str, source: str, buckets: int) -> tuple[float, ...]:
    """Find the lowest value of each bucket of about equal mass, from exact counts.

    A value belongs to the bucket in which the middle of its rows lies, so ties stay together and a frequent value has
    a bucket of its own.

    Args:
        connection: the database.
        value: SQL expression of the number.
        source: what stands after FROM, with a WHERE clause.
        buckets: number of buckets, >= 2; ties make it fewer.

    Example:
        >>> numbers = "(VALUES (1), (1), (1), (7), (8), (9)) AS t(x) WHERE TRUE"
        >>> quantile_lows(duckdb.connect(), "x", numbers, 2)
        (1.0, 7.0)
    """
    found = connection.execute(
        f"""
        WITH counted AS (
            SELECT CAST({value} AS DOUBLE) AS x, count(*) AS n FROM {source} AND isfinite(CAST({value} AS DOUBLE))
            GROUP BY ALL
        ), placed AS (
            SELECT x, n, sum(n) OVER (ORDER BY x) AS up_to, sum(n) OVER () AS total FROM counted
        )
        SELECT min(x) AS low FROM placed GROUP BY ((2 * up_to - n) * {buckets}) // (2 * total) ORDER BY low
        """
    ).fetchall()
    return tuple(float(row[0]) for row in found)
