"""Files of exposures, outcomes and covariates as SQL relations, and their columns as text, times and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from funnelcast.data.source import column_kind, find_files
from funnelcast.data.sql import identifier, literal
from funnelcast.errors import DataError, choices
from funnelcast.experiment.log_files import IDS, NUMBERS, file_format, read_call

__all__ = ["LARGEST", "Log", "open_log"]

FILE, _ROW, _PLACE = '"funnelcast:file"', '"funnelcast:row"', '"funnelcast:place"'
# Python's dates end there; infinity is outside as well. `26-03-01` would be of the first century.
_FIRST, _LAST = "TIMESTAMP '0100-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"
LARGEST = 1e50  # of amounts: products of four, and sums of them over all users, stay finite
_EXACT = 2**53  # up to here doubles tell whole numbers apart
_LONGEST = 60  # characters of a wrong value that are shown


@dataclass(frozen=True)
class Log:
    """Files of one kind as one relation.

    Args:
        what: `exposures`, `outcomes` or `covariates`, for messages.
        files: the paths.
        relation: what stands after FROM.
        types: column name -> SQL type, see `log_files.read_call`.
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
        """Write a column as SQL text; an empty text and NaN are null, and 7.0 is 7 as in a column of whole numbers.

        Args:
            column: name of an existing column.
        """
        name, kind, written = identifier(column), self.types[column], self._written(column)
        if kind == "JSON":
            number = f"TRY_CAST({written} AS DOUBLE)"
            return f"CASE WHEN json_type({name}) = 'DOUBLE' THEN {_whole(number, written)} ELSE {written} END"
        if column_kind(kind) == "float" or kind.startswith("DECIMAL"):
            return _whole(f"CAST({name} AS DOUBLE)", written)
        return written

    def _written(self, column: str) -> str:
        """Write a column as SQL text as the file has it; an empty text is null."""
        name = identifier(column)
        # Where lines differ in type DuckDB keeps JSON, whose texts are quoted.
        value = f"json_extract_string({name}, '$')" if self.types[column] == "JSON" else f"CAST({name} AS VARCHAR)"
        return f"nullif({value}, '')"

    def check_ids(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Refuse a log with ids that are numbers with a fraction and too large to tell one from the next.

        Args:
            connection: the database.

        Raises:
            DataError: there are such ids; one is named with its row.
        """
        lost: dict[str, str] = {}
        for column in (name for name in IDS if name in self.types):
            kind, written = self.types[column], self._written(column)
            if column_kind(kind) == "float":
                lost[column] = f"(abs({identifier(column)}) > {_EXACT} AND NOT isnan({identifier(column)}))"
            elif kind == "JSON":  # whole numbers of any length are read as they are written
                rounded = f"json_type({identifier(column)}) = 'DOUBLE' AND NOT regexp_full_match({written}, '-?[0-9]+')"
                number = f"TRY_CAST({written} AS DOUBLE)"
                lost[column] = f"({rounded} AND abs({number}) > {_EXACT} AND NOT isnan({number}))"
        if not lost:
            return
        query = f"SELECT {', '.join(f'count_if({wrong})' for wrong in lost.values())} FROM {self.relation}"
        counts = connection.execute(query).fetchone()
        assert counts is not None
        for (column, wrong), count in zip(lost.items(), counts, strict=True):
            if count:
                wanted = "text or whole numbers, for beyond 2^53 numbers with a fraction make one id of several"
                raise self.refusal(connection, column, wrong, wanted)

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
            return f"CAST(TRY_CAST({self._written(column)} AS TIMESTAMPTZ) AS TIMESTAMP)"
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
        return f"CASE WHEN {time} IS NULL OR {time} NOT BETWEEN {_FIRST} AND {_LAST} THEN {self._written(column)} END"

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
            f"SELECT {FILE}, {_PLACE}, {self._written(column)}, count(*) OVER () "
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
            text = self._written(column)
            value = f"WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE coalesce(TRY_CAST({text} AS DOUBLE), 'nan') END"
            return f"CASE WHEN {text} IS NOT NULL THEN CASE {text} {value} END"
        if column_kind(kind) not in NUMBERS:
            raise self.error(f"column '{column}' should hold numbers or truth values, received {kind}")
        return f"CAST({identifier(column)} AS DOUBLE)"

    def check_numbers(self, connection: duckdb.DuckDBPyConnection, column: str) -> None:
        """Refuse a log with values among numbers that are none, for which `number` has NaN.

        Args:
            connection: the database.
            column: name of a column of numbers.

        Raises:
            DataError: there are such values; one is named with its row.
        """
        if self.types[column] != "JSON":  # all values are of one type
            return
        written = self._written(column)
        wrong = f"{written} NOT IN ('true', 'false') AND TRY_CAST({written} AS DOUBLE) IS NULL"
        row = connection.execute(f"SELECT count(*) FROM {self.relation} WHERE {wrong}").fetchone()
        if row is not None and row[0]:
            raise self.refusal(connection, column, wrong, "numbers, truth values or null")

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
        DataError: a file is missing, unreadable, empty, or of an unknown or another format, or an id has lost digits.
    """
    files = find_files(patterns, what)
    kind = file_format(files, what)
    filled = [file for file in files if Path(file).stat().st_size]
    if not filled:
        raise DataError(f"{what} {files[0]}: should have at least one row, received an empty file")
    call, types = read_call(connection, filled, kind, what)
    traced = f"{call}, filename = {literal(FILE.strip(chr(34)))})"
    log = Log(what, tuple(filled), f"{call})", types, traced)
    log.check_ids(connection)
    return log


def _whole(number: str, text: str) -> str:
    """Write an id that is a number with a fraction as text: 7.0 as the 7 of a whole column, NaN as null."""
    whole = f"abs({number}) <= {_EXACT} AND {number} = trunc({number})"
    digits = f"CAST(TRY_CAST({number} AS BIGINT) AS VARCHAR)"
    return f"CASE WHEN isnan({number}) THEN NULL WHEN {whole} THEN {digits} ELSE {text} END"


def _shown(value: str) -> str:
    """Quote a value for a message of one line."""
    return repr(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}...")
