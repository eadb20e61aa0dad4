"""The two raw files of Ali-CCP, checked, cut to the wanted fields and joined; larger than memory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from funnelcast.data.sql import connect, identifier, literal
from funnelcast.errors import DataError

__all__ = ["RawFields", "RawFiles", "write_joined"]

ENTRY, FEATURE, VALUE = "\x01", "\x02", "\x03"  # what stands before an entry, a feature id, a value
SKELETON = ("sample_id", "click", "purchase", "common_key", "count", "list")
COMMON = ("common_key", "count", "list")
_ONE = f"[^{ENTRY}{FEATURE}{VALUE}]+{FEATURE}[^{ENTRY}{FEATURE}{VALUE}]+{VALUE}[^{ENTRY}{FEATURE}{VALUE}]*"
_LIST = f"({_ONE}({ENTRY}{_ONE})*)?"
_BAD = "malformed"  # the word that the query fails with; a second reading then finds the line


@dataclass(frozen=True)
class RawFiles:
    """One part of the dataset: samples and the features that many samples share."""

    skeleton: Path
    common: Path


@dataclass(frozen=True)
class RawFields:
    """The wanted fields.

    Args:
        skeleton: single-valued fields of the skeleton file; the first value counts.
        common: single-valued fields of the common file; the first value counts.
        skeleton_lists: multi-valued fields of the skeleton file.
        common_lists: multi-valued fields of the common file.
        max_length: values kept of a multi-valued field, from the front.
        require_common: whether a sample without its common line is an error; if not, its common fields are null.
    """

    skeleton: tuple[str, ...]
    common: tuple[str, ...]
    skeleton_lists: tuple[str, ...]
    common_lists: tuple[str, ...]
    max_length: int
    require_common: bool


def write_joined(files: RawFiles, fields: RawFields, part: str, path: Path, memory: int) -> None:
    """Write one row a sample, ordered by sample id, as Parquet.

    Args:
        files: the two raw files.
        fields: the wanted fields.
        part: SQL that names the part of a row from its columns `sample_id` and `common_key`.
        path: the file to write; it appears whole or not at all.
        memory: bytes that the join may hold; the rest spills next to `path`.

    Raises:
        DataError: a line is malformed, a sample lacks its common line, or a common key has two different lines; the
            message names file and line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, spill = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.spill")
    try:
        with connect(spill, memory, os.cpu_count() or 1) as connection:
            _load_common(connection, files.common, fields)
            query = f"COPY ({_joined(files, fields, part)}) TO {literal(str(temporary))} (FORMAT parquet)"
            _run(connection, query, files.skeleton, SKELETON)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(spill, ignore_errors=True)


def _load_common(connection: duckdb.DuckDBPyConnection, path: Path, fields: RawFields) -> None:
    """Read the common file into a table with one row a key; identical repeats of a line count once."""
    columns = ", ".join(["common_key", *_values(fields.common, fields.common_lists, fields.max_length)])
    checked = f"CASE WHEN {_malformed(COMMON)} THEN error('{_BAD}') ELSE common_key END AS common_key"
    rows = f"SELECT {checked}, list FROM {_reader(path, COMMON)}"
    _run(connection, f"CREATE TABLE common AS SELECT DISTINCT {columns} FROM ({rows})", path, COMMON)
    twice = connection.execute(
        "SELECT common_key FROM common GROUP BY common_key HAVING count(*) > 1 ORDER BY common_key LIMIT 1"
    ).fetchone()
    if twice is not None:
        first, second = _lines_with(path, 0, twice[0])[:2]
        raise DataError(
            f"{path}, lines {first} and {second}: a common_feature_index should have one list of features, "
            f"received two different ones for '{twice[0]}'"
        )


def _joined(files: RawFiles, fields: RawFields, part: str) -> str:
    """SQL of the samples with all wanted fields."""
    own = _values(fields.skeleton, fields.skeleton_lists, fields.max_length)
    shared = [f"common.{identifier(name)}" for name in (*fields.common, *fields.common_lists)]
    failed = _malformed(SKELETON)
    if fields.require_common:
        failed += " OR common.common_key IS NULL"
    checked = f"CASE WHEN {failed} THEN error('{_BAD}') ELSE CAST(sample_id AS BIGINT) END AS sample_id"
    labels = [f"CAST({name} AS TINYINT) AS {name}" for name in ("click", "purchase")]
    columns = ", ".join([checked, *labels, f"{part} AS split", *own, *shared])
    reader = _reader(files.skeleton, SKELETON)
    return f"SELECT {columns} FROM {reader} AS skeleton LEFT JOIN common USING (common_key) ORDER BY 1"


def _reader(path: Path, columns: Sequence[str]) -> str:
    """SQL of a raw file; quotes mean nothing in it, and an empty cell is text."""
    types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    options = "header = false, auto_detect = false, delim = ',', quote = '', escape = '', nullstr = '\x04'"
    return f"read_csv({literal(str(path))}, {options}, columns = {{{types}}})"


def _values(single: Sequence[str], lists: Sequence[str], max_length: int) -> list[str]:
    """SQL of the fields' values from the column `list`; a field that is not there is null."""
    before = f"(?:^|{ENTRY})%s{FEATURE}([^{VALUE}]*)"
    values = [f"nullif(regexp_extract(list, {literal(before % f)}, 1), '') AS {identifier(f)}" for f in single]
    values += [
        f"nullif(regexp_extract_all(list, {literal(before % f)}, 1)[1:{max_length}], []) AS {identifier(f)}"
        for f in lists
    ]
    return values


def _malformed(columns: Sequence[str]) -> str:
    """SQL that is true on a line that breaks the layout."""
    rules = [f"NOT regexp_full_match(list, {literal(_LIST)})", "common_key = ''"]
    if "sample_id" in columns:
        rules += ["NOT regexp_full_match(sample_id, '[0-9]{1,18}')"]
        rules += [f"{name} NOT IN ('0', '1')" for name in ("click", "purchase")]
    return " OR ".join(rules)


def _run(connection: duckdb.DuckDBPyConnection, query: str, path: Path, columns: Sequence[str]) -> None:
    """Run a query over a raw file; when it fails, read the file again to name the line."""
    try:
        connection.execute(query)
    except duckdb.InvalidInputException as error:
        _refuse_first_bad_line(path, columns)
        if "sample_id" in columns:
            _refuse_first_lonely_sample(connection, path)
        raise DataError(f"{path}: should be a readable raw file, received: {_first_line(error)}") from error
    except duckdb.Error as error:
        raise DataError(f"{path}: could not be read and joined: {_first_line(error)}") from error


def _first_line(error: duckdb.Error) -> str:
    """What went wrong, without DuckDB's advice."""
    return str(error).strip().splitlines()[0]


def _refuse_first_bad_line(path: Path, columns: Sequence[str]) -> None:
    """Raise for the first line that breaks the layout; line by line, since only a failed file comes here."""
    pattern = re.compile(_LIST)
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            cells = line.rstrip("\r\n").split(",")
            named = dict(zip(columns, cells, strict=False))
            problem = ""
            if len(cells) != len(columns):
                problem = f"{len(columns)} cells ({', '.join(columns)}), received {len(cells)}"
            elif not re.fullmatch("[0-9]{1,18}", named.get("sample_id", "0")):
                problem = f"a whole number as sample_id, received '{named['sample_id']}'"
            elif {named.get("click", "0"), named.get("purchase", "0")} - {"0", "1"}:
                problem = f"0 or 1 as click and purchase, received '{named['click']}' and '{named['purchase']}'"
            elif not named["common_key"]:
                problem = "a common_feature_index, received nothing"
            elif not pattern.fullmatch(named["list"]):
                problem = (
                    "a feature list of entries field \\x02 feature \\x03 value, separated by \\x01, "
                    f"received {named['list'][-60:]!r} at its end"
                )
            if problem:
                raise DataError(f"{path}, line {number}: should have {problem}")


def _refuse_first_lonely_sample(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Raise for the first sample whose common key has no line in the common file."""
    known = {row[0] for row in connection.execute("SELECT common_key FROM common").fetchall()}
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            key = line.split(",", 4)[3]
            if key not in known:
                raise DataError(
                    f"{path}, line {number}: common_feature_index '{key}' should be one of the {len(known)} keys of "
                    "the common file, received a key without a line there; missing_common = 'null' keeps such samples"
                )


def _lines_with(path: Path, column: int, value: str) -> list[int]:
    """Numbers of the lines with a value in a column."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return [n for n, line in enumerate(file, start=1) if line.split(",", column + 1)[column] == value]
