"""The raw files as one SQL relation with known columns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import duckdb

from funnelcast.data.description import Source
from funnelcast.data.sql import identifier, literal, text_list
from funnelcast.errors import DataError

__all__ = ["ZONED", "RawSource", "column_kind", "find_files", "open_source", "reading_error", "with_text"]

ColumnKind = Literal["whole", "float", "decimal", "text", "boolean", "date", "timestamp", "list", "other"]

ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
_KINDS: dict[str, ColumnKind] = {
    **dict.fromkeys(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"), "whole"
    ),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "float"),
    "VARCHAR": "text",
    "BOOLEAN": "boolean",
    "DATE": "date",
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    **dict.fromkeys(ZONED, "timestamp"),
}
_CSV_SAMPLE = 200_000  # rows that decide the types of CSV columns


@dataclass(frozen=True)
class RawSource:
    """The raw files as one relation, rows in the order of files and lines.

    Args:
        files: sorted paths within each pattern, patterns in their given order.
        format: `csv` or `parquet`.
        relation: what stands after FROM.
        types: column name -> SQL type, in the files' order.
    """

    files: tuple[str, ...]
    format: str
    relation: str
    types: dict[str, str]


def column_kind(sql_type: str) -> ColumnKind:
    """Sort an SQL type into the kinds that matter here.

    Args:
        sql_type: DuckDB's name of the type.

    Example:
        >>> column_kind("BIGINT"), column_kind("VARCHAR[]"), column_kind("DECIMAL(10,2)"), column_kind("BLOB")
        ('whole', 'list', 'decimal', 'other')
    """
    if sql_type.endswith("]"):
        return "list"
    if sql_type.startswith("DECIMAL") or sql_type in ("HUGEINT", "UHUGEINT"):
        return "decimal"
    if sql_type.startswith("ENUM"):
        return "text"
    return _KINDS.get(sql_type, "other")


def open_source(connection: duckdb.DuckDBPyConnection, source: Source) -> RawSource:
    """Find the files and their columns.

    Args:
        connection: where the relation will be read.
        source: the files of a description.

    Raises:
        DataError: a file is missing or unreadable, a pattern matches nothing, or columns differ between files.
    """
    files = find_files(source.files, "source.files")
    file_format = source.format or _format_of(files[0])
    first = _columns(connection, source, file_format, [files[0]])
    for file in files[1:]:
        other = _columns(connection, source, file_format, [file])
        missing, extra = sorted(first.keys() - other.keys()), sorted(other.keys() - first.keys())
        if missing or extra:
            raise DataError(
                f"{file}: should have the same columns as {files[0]}; "
                f"missing: {', '.join(missing) or 'none'}; not in the first file: {', '.join(extra) or 'none'}"
            )
    relation = _relation(source, file_format, files)
    types = first if len(files) == 1 else _columns(connection, source, file_format, files)
    return RawSource(tuple(files), file_format, relation, types)


def with_text(source: RawSource, columns: Iterable[str]) -> RawSource:
    """Read categories of CSV as they are written where DuckDB's guess would rewrite them.

    Whoever predicts has the written form: `yes` and not `true`, `31/05/2022` and not `2022-05-31`, all digits of a long
    id. Only `true` and `false` lose their capitals, since other readers make truth values of them, too.

    Args:
        source: the opened raw files.
        columns: columns that may be read as text.
    """
    if source.format != "csv":
        return source
    guessed = {c: source.types[c] for c in columns if source.types.get(c) in ("BOOLEAN", "DATE", "TIME", "HUGEINT")}
    if not guessed:
        return source
    types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in guessed)
    relation = f"{source.relation[:-1]}, types = {{{types}}})"
    small = ", ".join(
        f"CASE WHEN lower({name}) IN ('true', 'false') THEN lower({name}) ELSE {name} END AS {name}"
        for name in (identifier(column) for column, kind in guessed.items() if kind == "BOOLEAN")
    )
    if small:
        relation = f"(SELECT * REPLACE ({small}) FROM {relation})"
    return replace(source, relation=relation, types={**source.types, **dict.fromkeys(guessed, "VARCHAR")})


def find_files(patterns: Sequence[str], where: str) -> list[str]:
    """Expand patterns, each file once.

    Args:
        patterns: paths or globs.
        where: they stand, for messages.

    Raises:
        DataError: a pattern matches no file.
    """
    files: list[str] = []
    for pattern in patterns:
        if Path(pattern).is_file():
            files.append(pattern)
            continue
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207
        if not found:
            what = "match at least one file" if glob.has_magic(pattern) else "be a file"
            received = "no match" if glob.has_magic(pattern) else "nothing there"
            raise DataError(f"{where}: '{pattern}' should {what}, received {received}")
        files.extend(found)
    return list(dict.fromkeys(files))


def _format_of(file: str) -> str:
    endings = [ending.lower() for ending in Path(file).suffixes]
    if endings and endings[-1] in (".parquet", ".pq"):
        return "parquet"
    if any(ending in (".csv", ".tsv", ".txt") for ending in endings):
        return "csv"
    raise DataError(
        f"{file}: should end in .parquet, .csv or .tsv; for another ending set source.format; known: csv, parquet"
    )


def _relation(source: Source, file_format: str, files: list[str]) -> str:
    by_name = ", union_by_name = true" if len(files) > 1 else ""
    # Escaped brackets keep DuckDB from reading a file's name as a pattern once more.
    names = text_list([glob.escape(file) for file in files])
    if file_format == "parquet":
        return f"read_parquet({names}{by_name})"
    null = text_list(["", source.null] if source.null else [""])
    delimiter = f", delim = {text_list([source.delimiter])[1:-1]}" if source.delimiter else ""
    options = f"header = true, skip = 0, sample_size = {_CSV_SAMPLE}, nullstr = {null}{delimiter}"
    return f"read_csv({names}, {options}{by_name})"


def _columns(
    connection: duckdb.DuckDBPyConnection, source: Source, file_format: str, files: list[str]
) -> dict[str, str]:
    try:
        described: list[Any] = connection.execute(
            f"DESCRIBE SELECT * FROM {_relation(source, file_format, files)}"
        ).fetchall()
    except duckdb.Error as error:
        raise DataError(
            f"{files[0]}: should be a readable {file_format} file, received: {_first_lines(error)}"
        ) from error
    return {str(row[0]): str(row[1]) for row in described}


def reading_error(connection: duckdb.DuckDBPyConnection, source: RawSource, error: duckdb.Error) -> DataError:
    """Turn DuckDB's error while reading rows into one that names the file (and, for CSV, the line).

    Args:
        connection: the connection that failed.
        source: what was read.
        error: what DuckDB said.
    """
    message = _first_lines(error)
    named = [file for file in source.files if file in str(error)]
    if not named and source.format == "parquet":
        named = [file for file in source.files if not _reads(connection, file)]
    place = named[0] if named else ", ".join(source.files[:3])
    hint = "; set source.delimiter or source.null if the guess is wrong" if source.format == "csv" else ""
    return DataError(f"{place}: should be a readable {source.format} file, received: {message}{hint}")


def _reads(connection: duckdb.DuckDBPyConnection, file: str) -> bool:
    """Whether every column of a Parquet file can be decoded."""
    try:
        connection.execute(
            f"SELECT max(h) FROM (SELECT hash(t) AS h FROM read_parquet({text_list([glob.escape(file)])}) AS t)"
        ).fetchall()
    except duckdb.Error:
        return False
    return True


def _first_lines(error: duckdb.Error) -> str:
    """Keep what says where and why: the lines before DuckDB's advice."""
    kept: list[str] = []
    for line in str(error).splitlines():
        if not line.strip() or line.startswith(("Possible", "LINE")) or len(kept) == 3:
            break
        kept.append(line.strip())
    return "; ".join(kept)
