"""Files of exposures, outcomes and covariates as SQL relations, and their columns as text, times and numbers."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from funnelcast.data.source import column_kind
from funnelcast.data.sql import identifier, literal, text_list
from funnelcast.errors import DataError, choices

__all__ = ["Log", "open_log"]

_ENDINGS = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
_NUMBERS = ("whole", "float", "decimal", "boolean")
FILE, _ROW, _PLACE = '"funnelcast:file"', '"funnelcast:row"', '"funnelcast:place"'
# Python's dates end there; infinity is outside as well.
_FIRST, _LAST = "TIMESTAMP '0001-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"
_LONGEST = 60  # characters of a wrong value that are shown


@dataclass(frozen=True)
class Log:
    """Files of one kind as one relation.

    Args:
        what: `exposures`, `outcomes` or `covariates`, for messages.
        files: the paths.
        relation: what stands after FROM.
        types: column name -> SQL type.
        traced: the relation as it was opened, with the file of each row as the column `FILE`.
    """

    what: str
    files: tuple[str, ...]
    relation: str
    types: dict[str, str]
    traced: str

    def need(self, *columns: str) -> None:
        """Refuse a log without a column.

        Args:
            columns: names.

        Raises:
            DataError: one is missing; the existing ones are named.
        """
        missing = [column for column in columns if column not in self.types]
        if missing:
            raise self.error(
                f"column '{missing[0]}' is missing; needed: {', '.join(columns)}; {choices(self.types, missing[0])}"
            )

    def text(self, column: str) -> str:
        """Write a column as SQL text; an empty text is null.

        Args:
            column: name of an existing column.
        """
        name = identifier(column)
        # Where lines differ in type DuckDB keeps JSON, whose texts are quoted.
        value = f"json_extract_string({name}, '$')" if self.types[column] == "JSON" else f"CAST({name} AS VARCHAR)"
        return f"nullif({value}, '')"

    def time(self, column: str) -> str:
        """Write a column as an SQL timestamp in UTC; text that is no time is null, see `unread_time`.

        Args:
            column: name of an existing column.

        Raises:
            DataError: the column holds neither timestamps nor text.
        """
        kind = self.types[column]
        if column_kind(kind) in ("timestamp", "date"):
            return f"CAST({identifier(column)} AS TIMESTAMP)"
        if kind in ("VARCHAR", "JSON"):
            return f"CAST(TRY_CAST({self.text(column)} AS TIMESTAMPTZ) AS TIMESTAMP)"
        raise self.error(
            f"column '{column}' should hold timestamps or text such as 2026-03-01T12:00:00Z, received {kind}; "
            "bring Unix time to timestamps first"
        )

    def unread_time(self, column: str) -> str:
        """Write what a column holds where that is no time, as SQL text; null where it is one, and where it is null.

        Args:
            column: name of an existing column.

        Raises:
            DataError: the column holds neither timestamps nor text.
        """
        time = self.time(column)
        return f"CASE WHEN {time} IS NULL OR {time} NOT BETWEEN {_FIRST} AND {_LAST} THEN {self.text(column)} END"

    def check_times(
        self, connection: duckdb.DuckDBPyConnection, column: str, table: str, unread: str, where: str = ""
    ) -> None:
        """Refuse a log with values that should be times and are none.

        Args:
            connection: the database.
            column: name of the column of times.
            table: made from the log.
            unread: column of the table, made by `unread_time`.
            where: condition with WHERE by which rows of the log got into the table, or nothing.

        Raises:
            DataError: there are such values; one is named with its row.
        """
        row = connection.execute(f"SELECT count({unread}) FROM {table}").fetchone()
        if row is not None and row[0]:
            raise self.refusal(
                connection,
                column,
                f"{self.unread_time(column)} IS NOT NULL",
                "timestamps, text such as 2026-03-01T12:00:00Z, or null",
                where,
            )

    def refusal(
        self, connection: duckdb.DuckDBPyConnection, column: str, wrong: str, wanted: str, where: str = ""
    ) -> DataError:
        """Make an error that names the first row with a wrong value and its file.

        Args:
            connection: the database.
            column: name of the column.
            wrong: condition of a wrong value.
            wanted: what the column should hold.
            where: condition with WHERE of the rows that count, or nothing.
        """
        counted = f"SELECT *, row_number() OVER () AS {_ROW} FROM {self.traced}"
        placed = f"SELECT *, {_ROW} - min({_ROW}) OVER (PARTITION BY {FILE}) + 1 AS {_PLACE} FROM ({counted})"
        found = connection.execute(
            f"SELECT {FILE}, {_PLACE}, {self.text(column)}, count(*) OVER () "
            f"FROM (SELECT * FROM ({placed}) {where}) WHERE {wrong} ORDER BY {_ROW} LIMIT 1"
        ).fetchone()
        assert found is not None
        file, place, value, count = found
        more = f", the first of {count:,}" if count > 1 else ""
        received = f"received {_shown(value)} in row {place:,}{more}"
        return DataError(f"{self.what} {file}: column '{column}' should hold {wanted}, {received}")

    def number(self, column: str) -> str:
        """Write a column as an SQL number; true is 1, and what is no number among numbers is NaN.

        Args:
            column: name of an existing column.

        Raises:
            DataError: the column holds neither numbers nor truth values.
        """
        kind = self.types[column]
        if kind == "JSON":  # every value is null, or the types differ
            text = self.text(column)
            value = f"WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE coalesce(TRY_CAST({text} AS DOUBLE), 'nan') END"
            return f"CASE WHEN {text} IS NOT NULL THEN CASE {text} {value} END"
        if column_kind(kind) not in _NUMBERS:
            raise self.error(f"column '{column}' should hold numbers or truth values, received {kind}")
        return f"CAST({identifier(column)} AS DOUBLE)"

    def error(self, message: str) -> DataError:
        """Make an error that names the files.

        Args:
            message: what is wrong.
        """
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return DataError(f"{self.what} {self.files[0]}{more}: {message}")


def open_log(connection: duckdb.DuckDBPyConnection, patterns: Sequence[str], what: str) -> Log:
    """Find files and their columns.

    Args:
        connection: where the relation will be read.
        patterns: paths or globs of Parquet files or of JSON lines, all of one format.
        what: `exposures`, `outcomes` or `covariates`, for messages.

    Raises:
        DataError: a file is missing, unreadable, empty, or of an unknown or another format.
    """
    files = _find(patterns, what)
    formats = {_format(file, what) for file in files}
    if len(formats) > 1:
        raise DataError(f"{what}: files should be of one format, received Parquet and JSON lines")
    filled = [file for file in files if Path(file).stat().st_size]
    if not filled:
        raise DataError(f"{what} {files[0]}: should have at least one row, received an empty file")
    # Escaped brackets keep DuckDB from reading a file's name as a pattern once more.
    names = text_list([glob.escape(file) for file in filled])
    call = f"read_parquet({names}, union_by_name = true"
    if formats == {"json"}:
        # All lines decide the types: a field that turns from number to text late would fail the reading.
        call = (
            f"read_json({names}, format = 'newline_delimited', records = true, union_by_name = true, sample_size = -1"
        )
    relation, traced = f"{call})", f"{call}, filename = {literal(FILE.strip(chr(34)))})"
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise DataError(f"{what} {filled[0]}: should be readable {_WORDS[formats.pop()]}, {_cause(error)}") from error
    return Log(what, tuple(filled), relation, {str(row[0]): str(row[1]) for row in described}, traced)


_WORDS = {"parquet": "Parquet", "json": "JSON lines"}


def _cause(error: duckdb.Error) -> str:
    return f"received: {str(error).splitlines()[0]}"


def _shown(value: str) -> str:
    """Quote a value for a message of one line."""
    return repr(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}...")


def _find(patterns: Sequence[str], what: str) -> list[str]:
    """Expand the patterns, each file once."""
    files: list[str] = []
    for pattern in patterns:
        if Path(pattern).is_file():
            files.append(pattern)
            continue
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207
        if not found:
            raise DataError(f"{what}: '{pattern}' should be a file or match at least one, received nothing")
        files += found
    return list(dict.fromkeys(files))


def _format(file: str, what: str) -> str:
    endings = [ending.lower() for ending in Path(file).suffixes if ending.lower() not in (".gz", ".zst")]
    if not endings or endings[-1] not in _ENDINGS:
        raise DataError(f"{what} {file}: should end in one of {', '.join(_ENDINGS)}, received '{Path(file).name}'")
    return _ENDINGS[endings[-1]]
