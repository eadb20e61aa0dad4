"""The one pass over the raw files: needed columns, cleaned labels and the part of each row, into one Parquet file.

Later passes (audit, fitting, encoding) read this file only, so a CSV is parsed once and a hash split hashes once.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from funnelcast.data.checks import category_columns
from funnelcast.data.description import Description
from funnelcast.data.source import ZONED, RawSource, column_kind, reading_error
from funnelcast.data.split_expression import split_expression, stable_hash
from funnelcast.data.sql import identifier, literal
from funnelcast.graph import ROOT, FunnelGraph

__all__ = [
    "BAD_LABEL",
    "DROPPED",
    "LEFT_OUT",
    "PART",
    "STAGED_ROW_GROUP",
    "VIOLATIONS",
    "label_expression",
    "raw_columns",
    "scope_expressions",
    "stage",
    "staged_column",
    "staging_memory",
    "violation_expressions",
]

STAGED_ROW_GROUP = 122_880
# Read a few times and thrown away: a quarter more bytes are cheaper than compression and large dictionaries.
_FAST = "COMPRESSION uncompressed, DICTIONARY_SIZE_LIMIT 1000"
# DuckDB writes ordered rows on one thread alone unless its limit is this much a column and thread; it needs less.
_ORDERED_WRITE = 8 << 20
LEFT_OUT = 3  # part of rows in no split; 0, 1, 2 are TRAIN, VALID, TEST
DROPPED = 4  # part of rows that the label audit drops
BAD_LABEL = 2  # staged label that is neither 0, 1 nor null
_VALUES = "1.2e-38 AND 3.4e38"  # of a value step; shards hold float32, in which its logarithm has to be finite


def staged_column(name: str) -> str:
    """Name of a staged column that is ours, apart from any raw column's name.

    Args:
        name: such as `part`, `user` or `label.click`.
    """
    return f"funnelcast:{name}"


PART = staged_column("part")
VIOLATIONS = staged_column("violations")  # bit i is set where step i broke the funnel


def raw_columns(description: Description) -> list[str]:
    """Raw columns that encoders read, in the order of first use.

    Args:
        description: the whole dataset file.
    """
    columns = [feature.column for feature in description.features]
    return list(dict.fromkeys(columns + category_columns(description)))


def stage(connection: duckdb.DuckDBPyConnection, description: Description, source: RawSource, path: Path) -> None:
    """Write the staged file in the order of the source.

    Args:
        connection: the database.
        description: the dataset file, already checked against the columns.
        source: the opened raw files.
        path: the Parquet file to write.

    Raises:
        DataError: a raw file cannot be read, or the split does not fit its column.
    """
    query = _query(description, source)
    try:
        connection.execute(
            f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, {_FAST}, ROW_GROUP_SIZE {STAGED_ROW_GROUP})"
        )
    except duckdb.OutOfMemoryException:
        raise  # no fault of the files; `prepare` explains it
    except duckdb.Error as error:
        raise reading_error(connection, source, error) from error


def staging_memory(description: Description, threads: int) -> int:
    """Return the limit, in bytes, from which on DuckDB stages on all threads.

    Args:
        description: the dataset file.
        threads: DuckDB's threads.
    """
    steps = sum(1 + len(step.truths) + (step.kind == "value") for step in description.steps)
    others = sum(map(bool, (description.user, description.time, description.weight)))
    columns = len(raw_columns(description)) + steps + others + len((PART, VIOLATIONS))
    return (threads * columns + 1) * _ORDERED_WRITE


def _query(description: Description, source: RawSource) -> str:
    labels = [staged_column(f"label.{step.name}") for step in description.steps]
    others = _other_columns(description, source)
    categories = set(category_columns(description))
    columns = [
        f"{_raw(c, source.types[c], category=c in categories)} AS {identifier(c)}" for c in raw_columns(description)
    ]
    columns += [
        f"{label_expression(step.column, source.types[step.column], step.kind)} AS {identifier(label)}"
        for step, label in zip(description.steps, labels, strict=True)
    ]
    columns += [f"{expression} AS {identifier(name)}" for name, expression in others.items()]
    columns.append(f"{split_expression(description.split, source.types)} AS {identifier(PART)}")
    inner = f"SELECT {', '.join(columns)} FROM {source.relation}"
    bits = [
        f"CASE WHEN {condition} THEN {1 << i} ELSE 0 END"
        for i, condition in enumerate(violation_expressions(description.graph, [identifier(c) for c in labels]))
    ]
    marked = f"SELECT *, {' + '.join(bits) or '0'} AS {identifier(VIOLATIONS)} FROM ({inner})"
    return f"SELECT * REPLACE ({', '.join(_settled(description, labels))}) FROM ({marked})"


def _settled(description: Description, labels: list[str]) -> list[str]:
    """Part and labels after the audit's action."""
    action = description.labels.violations
    drop = f"WHEN {identifier(VIOLATIONS)} <> 0 THEN {DROPPED} " if action == "drop" else ""
    part = identifier(PART)
    settled = [f"CAST(CASE WHEN {part} IS NULL THEN {LEFT_OUT} {drop}ELSE {part} END AS TINYINT) AS {part}"]
    if action == "repair":
        for i in range(1, len(labels)):
            label = identifier(labels[i])
            stopped = " OR ".join(f"{identifier(former)} = 0" for former in labels[:i])
            settled.append(f"CAST(CASE WHEN {label} = 1 AND ({stopped}) THEN 0 ELSE {label} END AS TINYINT) AS {label}")
            if description.steps[i].kind == "value":
                value = identifier(staged_column(f"value.{description.steps[i].name}"))
                settled.append(f"CASE WHEN {label} = 1 AND ({stopped}) THEN 0.0 ELSE {value} END AS {value}")
    return settled


def label_expression(column: str, sql_type: str, kind: str = "event") -> str:
    """Write a raw label as 0, 1, null (unobserved; NaN too) or BAD_LABEL.

    Args:
        column: the raw label column.
        sql_type: its type.
        kind: `event`, or `value` for a number that counts as 1 where it is above 0.
    """
    label = identifier(column)
    if column_kind(sql_type) == "boolean":
        return f"CAST({label} AS TINYINT)"
    missing = f"{label} IS NULL" + (f" OR isnan({label})" if column_kind(sql_type) == "float" else "")
    happened = f"{label} BETWEEN {_VALUES}" if kind == "value" else f"{label} = 1"
    return (
        f"CAST(CASE WHEN {missing} THEN NULL WHEN {label} = 0 THEN 0 WHEN {happened} THEN 1 "
        f"ELSE {BAD_LABEL} END AS TINYINT)"
    )


def violation_expressions(graph: FunnelGraph, labels: list[str]) -> list[str]:
    """Write for each step the condition that it happened although it could not.

    In a chain: the nearest known former step did not happen. In a graph: the row is known to lie outside the step's
    scope, or an earlier step of its group happened.

    Args:
        graph: the funnel's shape.
        labels: SQL expressions of the labels, in funnel order.
    """
    if graph.is_chain:
        former = [f"coalesce({', '.join(reversed(labels[:i]))}) = 0" for i in range(1, len(labels))]
        return ["FALSE", *(f"({label} = 1 AND {stopped})" for label, stopped in zip(labels[1:], former, strict=True))]
    scopes = scope_expressions(graph, labels)
    conditions = []
    for v, label in enumerate(labels):
        rivals = [f"coalesce({labels[u]} = 1, FALSE)" for u in graph.unit(v) if u < v]
        conditions.append(f"({label} = 1 AND ({' OR '.join([f'NOT coalesce({scopes[v]}, TRUE)', *rivals])}))")
    return conditions


def scope_expressions(graph: FunnelGraph, labels: list[str]) -> list[str]:
    """Write for each step the condition that a row lies in its scope; null where labels are unobserved.

    Args:
        graph: the funnel's shape.
        labels: SQL expressions of the labels, in funnel order.
    """
    found: list[str] = []
    for edges in graph.edges:
        branches = [
            "TRUE" if (u, yes) == ROOT else f"{labels[u]} = 1" if yes else f"({found[u]} AND {labels[u]} = 0)"
            for u, yes in edges
        ]
        found.append(f"({' OR '.join(branches)})")
    return found


def _raw(column: str, sql_type: str, *, category: bool) -> str:
    """A raw column in a type that Arrow reads back as text, whole numbers, doubles, booleans, dates or lists."""
    name, kind = identifier(column), column_kind(sql_type)
    if kind == "float":
        return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END"
    if kind == "decimal":
        return f"CAST({name} AS DOUBLE)"
    if category and sql_type.startswith("UBIGINT"):  # may lie beyond int64; lists alike
        return f"CAST({name} AS VARCHAR{'[]' if kind == 'list' else ''})"
    return f"CAST({name} AS VARCHAR)" if sql_type.startswith("ENUM") else name


def _other_columns(description: Description, source: RawSource) -> dict[str, str]:
    """User, time, weight and truth: staged name -> SQL expression."""
    columns: dict[str, str] = {}
    if description.user:
        draw = stable_hash(f"coalesce(CAST({identifier(description.user)} AS VARCHAR), '')")
        columns[staged_column("user")] = f"CAST({draw} >> 1 AS BIGINT)"  # 63 bits fit into a signed number
    if description.time:
        columns[staged_column("time")] = _time(description.time, source.types[description.time])
    if description.weight:
        columns[staged_column("weight")] = f"CAST({identifier(description.weight)} AS DOUBLE)"
    for step in description.steps:
        for kind, column in step.truths.items():
            columns[staged_column(f"truth.{kind}.{step.name}")] = f"CAST({identifier(column)} AS DOUBLE)"
        if step.kind == "value":
            value = f"CAST({identifier(step.column)} AS DOUBLE)"
            columns[staged_column(f"value.{step.name}")] = f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"
    return columns


def _time(column: str, sql_type: str) -> str:
    name, kind = identifier(column), column_kind(sql_type)
    if kind == "whole":
        return f"CAST({name} AS BIGINT)"
    if kind == "float":
        return f"CASE WHEN isnan({name}) THEN NULL ELSE CAST({name} AS DOUBLE) END"
    if sql_type in ZONED:
        return f"CAST({name} AT TIME ZONE 'UTC' AS TIMESTAMP)"
    return f"CAST({name} AS TIMESTAMP)"
