"""Fits target statistics: the counts of every key on TRAIN, and for TRAIN's own rows the counts they may see."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.data.description import Description, TargetStatistics
from funnelcast.data.encode_numbers import LogRound
from funnelcast.data.fit import quantile_lows
from funnelcast.data.sql import identifier, literal
from funnelcast.data.stage import PART, staged_column
from funnelcast.data.target_statistics import COUNT_SCALE, KeyStatistics
from funnelcast.progress import RowProgress

__all__ = ["fit_statistics"]


def fit_statistics(
    connection: duckdb.DuckDBPyConnection, description: Description, staged: Path, folder: Path, progress: RowProgress
) -> list[tuple[KeyStatistics, Path]]:
    """Fit all target statistics.

    Args:
        connection: the database.
        description: the dataset file.
        staged: the staged Parquet file.
        folder: where the files of TRAIN's own statistics go.
        progress: counts the staged rows once a statistic.

    Returns:
        Each statistic with a Parquet file of TRAIN's rows in their order: `rows` (n) and `mean<i>` (null = undefined).

    Raises:
        DataError: a key column holds no categories.
    """
    fitted = []
    steps = [step.name for step in description.steps]
    for number, statistics in enumerate(description.target_statistics):
        connection.execute(f"CREATE OR REPLACE TEMP VIEW train AS {_train_rows(statistics, steps, staged)}")
        groups: pa.Table = connection.sql(
            f"SELECT {_keys(statistics)}, {_totals(len(steps))} FROM train GROUP BY {_keys(statistics)} "
            f"ORDER BY rows DESC, {_keys(statistics)}"
        ).to_arrow_table()
        key = KeyStatistics.fit(statistics.columns, groups, len(steps), statistics.smoothing)
        own = folder / f"statistics-{number}.parquet"
        query = (
            _earlier_rows(statistics, len(steps)) if statistics.earlier_only else _other_folds(statistics, len(steps))
        )
        connection.execute(f"COPY ({query}) TO {literal(str(own))} (FORMAT parquet, ROW_GROUP_SIZE 65536)")
        relation = f"read_parquet({literal(str(own))}) WHERE TRUE"
        lows = [quantile_lows(connection, f"mean{i}", relation, statistics.buckets) for i in range(len(steps))]
        fitted.append((key.with_buckets(steps, lows, _count_lows(connection, own)), own))
        progress.advance(pq.read_metadata(staged).num_rows, note=key.name)
    return fitted


def _count_lows(connection: duckdb.DuckDBPyConnection, own: Path) -> tuple[int, ...]:
    counts = connection.execute(f"SELECT DISTINCT rows FROM read_parquet({literal(str(own))})").fetchnumpy()["rows"]
    return tuple(np.unique(LogRound.bucket_numbers(np.asarray(counts, np.float64), COUNT_SCALE)).tolist())


def _train_rows(statistics: TargetStatistics, steps: list[str], staged: Path) -> str:
    """TRAIN's rows: number, fold, time if needed, keys and labels."""
    keys = ", ".join(f"{identifier(column)} AS key{k}" for k, column in enumerate(statistics.columns))
    labels = ", ".join(f"{identifier(staged_column(f'label.{step}'))} AS label{i}" for i, step in enumerate(steps))
    time = f"{identifier(staged_column('time'))} AS moment, " if statistics.earlier_only else ""
    # A multiplicative hash of the row number: neighbouring rows, often of one user, fall into unlike folds.
    fold = f"((file_row_number % 2147483648) * 2654435761) // 65536 % 65536 % {statistics.folds}"
    return (
        f"SELECT file_row_number AS row, {fold} AS fold, {time}{keys}, {labels} "
        f"FROM read_parquet({literal(str(staged))}, file_row_number = true) WHERE {identifier(PART)} = 0"
    )


def _keys(statistics: TargetStatistics, table: str = "") -> str:
    return ", ".join(f"{table}key{k}" for k in range(len(statistics.columns)))


def _same_keys(statistics: TargetStatistics, left: str, right: str) -> str:
    """Join condition in which null equals null."""
    return " AND ".join(f"{left}.key{k} IS NOT DISTINCT FROM {right}.key{k}" for k in range(len(statistics.columns)))


def _totals(n_steps: int) -> str:
    """Counts of a group of rows."""
    by_step = (
        f"CAST(coalesce(sum(label{i}), 0) AS BIGINT) AS hits{i}, count(label{i}) AS seen{i}" for i in range(n_steps)
    )
    return ", ".join(["count(*) AS rows", *by_step])


def _names(n_steps: int) -> list[str]:
    return ["rows", *(f"{name}{i}" for i in range(n_steps) for name in ("hits", "seen"))]


def _sums(n_steps: int) -> str:
    """Sums of counts that are already there."""
    return ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in _names(n_steps))


def _means(statistics: TargetStatistics, n_steps: int, key: str, overall: str) -> str:
    """The formula of `smoothed_means`, null where no label is known."""
    smoothing = literal(statistics.smoothing)
    return ", ".join(
        f"CASE WHEN {overall.format(f'seen{i}')} > 0 THEN ({key.format(f'hits{i}')} + {smoothing} * "
        f"({overall.format(f'hits{i}')} / {overall.format(f'seen{i}')})) / ({key.format(f'seen{i}')} + {smoothing}) "
        f"END AS mean{i}"
        for i in range(n_steps)
    )


def _other_folds(statistics: TargetStatistics, n_steps: int) -> str:
    """Statistics of each TRAIN row from the folds it is not in: the key's total minus the key's part in its fold."""
    keys = _keys(statistics)
    return f"""
        WITH folds AS MATERIALIZED (SELECT {keys}, fold, {_totals(n_steps)} FROM train GROUP BY {keys}, fold),
        totals AS (SELECT {keys}, {_sums(n_steps)} FROM folds GROUP BY {keys}),
        overall AS (SELECT fold, {_sums(n_steps)} FROM folds GROUP BY fold),
        everything AS (SELECT {_sums(n_steps)} FROM overall)
        SELECT totals.rows - folds.rows AS rows,
            {_means(statistics, n_steps, "(totals.{0} - folds.{0})", "(everything.{0} - overall.{0})")}
        FROM train
        JOIN folds ON {_same_keys(statistics, "train", "folds")} AND train.fold = folds.fold
        JOIN totals ON {_same_keys(statistics, "train", "totals")}
        JOIN overall ON train.fold = overall.fold
        CROSS JOIN everything
        ORDER BY train.row
    """


def _earlier_rows(statistics: TargetStatistics, n_steps: int) -> str:
    """Statistics of each TRAIN row from rows with a strictly earlier time."""
    keys = _keys(statistics)
    window = "ORDER BY moment ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"

    def before(partition: str) -> str:
        return ", ".join(
            f"CAST(coalesce(sum({name}) OVER ({partition} {window}), 0) AS BIGINT) AS {name}"
            for name in _names(n_steps)
        )

    return f"""
        WITH moments AS MATERIALIZED (SELECT {keys}, moment, {_totals(n_steps)} FROM train GROUP BY {keys}, moment),
        earlier AS (SELECT {keys}, moment, {before(f"PARTITION BY {keys}")} FROM moments),
        overall AS (
            SELECT moment, {before("")} FROM (SELECT moment, {_sums(n_steps)} FROM moments GROUP BY moment)
        )
        SELECT earlier.rows AS rows, {_means(statistics, n_steps, "earlier.{0}", "overall.{0}")}
        FROM train
        JOIN earlier ON {_same_keys(statistics, "train", "earlier")} AND train.moment = earlier.moment
        JOIN overall ON train.moment = overall.moment
        ORDER BY train.row
    """
