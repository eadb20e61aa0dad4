"""Files of one log as an SQL call that reads them, with the types of their columns."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from funnelcast.data.source import column_kind
from funnelcast.data.sql import literal, text_list
from funnelcast.errors import DataError

__all__ = ["IDS", "NUMBERS", "file_format", "read_call"]

_ENDINGS = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
_WORDS = {"parquet": "Parquet", "json": "JSON lines"}
NUMBERS = ("whole", "float", "decimal", "boolean")
IDS = ("user", "variant", "request_id", "experiment", "event_id")  # what is compared as text, exactly as written
# What DuckDB makes of JSON texts; back from these types come other texts, such as ids in small letters.
_QUOTED = ("text", "date", "timestamp")
_QUOTED_TYPES = ("UUID", "TIME")


def file_format(files: Sequence[str], what: str) -> str:
    """Tell the format of files by their endings: `parquet` or `json`.

    Args:
        files: paths, at least one.
        what: the kind of log, for messages.

    Raises:
        DataError: an ending is unknown, or the formats differ.
    """
    formats = {_ending(file, what) for file in files}
    if len(formats) > 1:
        raise DataError(f"{what}: files should be of one format, received Parquet and JSON lines")
    return formats.pop()


def _ending(file: str, what: str) -> str:
    endings = [ending.lower() for ending in Path(file).suffixes if ending.lower() not in (".gz", ".zst")]
    if not endings or endings[-1] not in _ENDINGS:
        raise DataError(f"{what} {file}: should end in one of {', '.join(_ENDINGS)}, received '{Path(file).name}'")
    return _ENDINGS[endings[-1]]


def read_call(
    connection: duckdb.DuckDBPyConnection, files: Sequence[str], kind: str, what: str
) -> tuple[str, dict[str, str]]:
    """Write the call that reads files, without its closing bracket.

    Args:
        connection: where they will be read.
        files: paths, none of an empty file.
        kind: `parquet` or `json`.
        what: the kind of log, for messages.

    Returns:
        The call, and column name -> SQL type. Of JSON lines texts are VARCHAR, ids that may be numbers with a fraction
        or of several types JSON; lists and objects are read as JSON, though they are told with their own type.

    Raises:
        DataError: a file is unreadable, or names of JSON differ only in upper and lower case.
    """
    # Escaped brackets keep DuckDB from reading a file's name as a pattern once more. A folder such as `hour=12` is part
    # of a name as well: it would become a column, which makes a step and tells copies of a file apart.
    names = f"{text_list([glob.escape(file) for file in files])}, hive_partitioning = false"
    call = f"read_parquet({names}, union_by_name = true"
    if kind == "json":
        # All lines decide the types: a field that turns from number to text late would fail the reading.
        call = (
            f"read_json({names}, format = 'newline_delimited', records = true, union_by_name = true, sample_size = -1"
        )
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {call})").fetchall()
        types = {str(row[0]): str(row[1]) for row in described}
        if kind == "json":
            _check_names(connection, names, types, f"{what} {files[0]}")
    except duckdb.Error as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{what} {files[0]}: should be readable {_WORDS[kind]}, received: {cause}") from error
    return (call, types) if kind == "parquet" else _exact(call, types)


def _exact(call: str, types: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Give a call that reads JSON the types which keep texts and ids as they are written."""
    told: dict[str, str] = {}
    read: dict[str, str] = {}
    for name, kind in types.items():
        if column_kind(kind) in _QUOTED or kind in _QUOTED_TYPES:
            told[name] = read[name] = "VARCHAR"
        elif name in IDS and column_kind(kind) not in ("whole", "boolean"):
            told[name] = read[name] = "JSON"
        else:
            told[name], read[name] = kind, kind if column_kind(kind) in NUMBERS else "JSON"
    columns = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in read.items())
    return f"{call}, columns = {{{columns}}}", told


def _check_names(connection: duckdb.DuckDBPyConnection, names: str, types: Mapping[str, str], place: str) -> None:
    """Refuse names that DuckDB had to change: `Click` and `click` became `Click` and `click_1`, which no line has."""
    known = {name.lower() for name in types}
    numbered = {name: re.sub(r"_\d+$", "", name) for name in types}
    doubtful = [name for name, stem in numbered.items() if stem != name and stem.lower() in known]
    if not doubtful:
        return
    query = f"SELECT DISTINCT unnest(json_keys(json)) FROM read_ndjson_objects({names})"
    keys = {row[0] for row in connection.execute(query).fetchall()}
    for name in doubtful:
        if name not in keys:
            raise DataError(
                f"{place}: columns should differ in more than upper and lower case, received "
                f"{', '.join(sorted(repr(key) for key in keys if key.lower() == numbered[name].lower()))}"
            )
