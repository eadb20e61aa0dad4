"""DuckDB: the connection that spills, and quoting of names and values."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from funnelcast.errors import ConfigError

__all__ = ["bytes_of", "connect", "identifier", "limited", "literal", "text_list"]

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_LEAST_MEMORY = 256 * 10**6  # the libraries alone take about half of it


def identifier(name: str) -> str:
    """Quote a column name.

    Args:
        name: any text.

    Example:
        >>> identifier('a"b')
        '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """Write a value as SQL.

    Args:
        value: text, a truth value, a number, a date or a datetime (an aware one is brought to UTC).

    Raises:
        TypeError: the value is of another type.

    Example:
        >>> print(literal("it's"), literal(3), literal(datetime.date(2022, 5, 4)))
        'it''s' 3 DATE '2022-05-04'
    """
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"CAST('{value!r}' AS DOUBLE)"
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
    if isinstance(value, datetime.date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"an SQL literal should be text, a number, a date or a datetime, received {type(value).__name__}")


def text_list(values: list[str]) -> str:
    """Write texts as an SQL list.

    Args:
        values: any texts.

    Example:
        >>> print(text_list(["a", "b"]))
        ['a', 'b']
    """
    return "[" + ", ".join(literal(value) for value in values) + "]"


def bytes_of(size: str) -> int:
    """Read a memory limit.

    Args:
        size: a number with one of KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).

    Raises:
        ConfigError: the text is not such a size, or below 256MB.

    Example:
        >>> bytes_of("1.5GB")
        1500000000
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", size)
    if found is None or found[2].upper() not in _UNITS:
        raise ConfigError(f"memory limit should be a number with KB, MB, GB, TB or KiB .. TiB, received '{size}'")
    amount = int(float(found[1]) * _UNITS[found[2].upper()])
    if amount < _LEAST_MEMORY:
        raise ConfigError(f"memory limit should be at least 256MB, received '{size}'")
    return amount


@contextmanager
def limited(connection: duckdb.DuckDBPyConnection, limit: int, *, afterwards: int) -> Iterator[None]:
    """Give a database another limit inside the block.

    Args:
        connection: the database.
        limit: bytes that DuckDB may hold.
        afterwards: the limit that it gets back.
    """
    connection.execute(f"SET memory_limit = '{limit // 1000}KB'")
    try:
        yield
    finally:
        connection.execute(f"SET memory_limit = '{afterwards // 1000}KB'")


@contextmanager
def connect(spill: Path, memory: int, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database that spills to a folder.

    Args:
        spill: folder for what does not fit into memory.
        memory: bytes that DuckDB may hold.
        threads: its threads, >= 1.
    """
    connection = duckdb.connect(
        config={
            "memory_limit": f"{memory // 1000}KB",
            "threads": threads,
            "temp_directory": str(spill),
            "preserve_insertion_order": True,
            "autoinstall_known_extensions": False,
        }
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        # The bar is asked how far it is, never drawn by DuckDB itself.
        connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        yield connection
    finally:
        connection.close()
