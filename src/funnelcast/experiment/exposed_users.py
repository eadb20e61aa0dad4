"""Exposure log -> tables of users and of their exposures, with a count of everything that was left out."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import duckdb

from funnelcast.data.sql import identifier, literal, text_list
from funnelcast.errors import ConfigError, DataError, choices
from funnelcast.experiment.logs import Log
from funnelcast.experiment.shares import check_shares

__all__ = ["Split", "find_users", "is_analysed"]

Crossed = Literal["drop", "first"]
_NAMED = 5  # unknown variants, or experiments, that are named


@dataclass(frozen=True)
class Split:
    """How users were meant to be split.

    Args:
        shares: variant -> planned share of users, the base first; empty: equal shares of the variants that occur.
        base: the variant that the others are compared with; None for the first one.
        experiment: name of the experiment, where a log holds several.
        crossed: what becomes of users who were exposed to two variants: `drop` them, or keep all of their exposures
            with the `first` variant.
        pooled: all users are one group whatever their variants: a history and no experiment.
        known: the variants of the shares are known to exist, as those of a running service; else one that is in no
            exposure is an error where an exposure's variant has no share, for one may be a slip for the other.
        since: users whose first exposure was before this time, which has a zone, are left out; None keeps all.

    Raises:
        ConfigError: the shares are no shares.
    """

    shares: Mapping[str, float]
    base: str | None = None
    experiment: str | None = None
    crossed: Crossed = "drop"
    pooled: bool = False
    known: bool = False
    since: datetime | None = None

    def __post_init__(self) -> None:
        if self.shares:
            check_shares(self.shares, least=1 if self.pooled else 2)


def find_users(
    connection: duckdb.DuckDBPyConnection, log: Log, split: Split
) -> tuple[dict[str, float], dict[str, Any]]:
    """Make the tables `users` (id, user, arm, first_time), `exposed`, which is their log, and `experiment` (name).

    A user belongs to the variant of the first exposure, from which on outcomes count. Rows without user, variant or
    time, of variants that are not in the plan, and repeated ones (the same request of the same user, or without a
    request the same user, variant and time) are left out.

    Args:
        connection: the database.
        log: of the exposures.
        split: how users were meant to be split.

    Returns:
        Variant -> planned share, the base first, and what was counted, with the name of the `experiment`.

    Raises:
        ConfigError: a variant with a share does not occur, and one that occurs has no share.
        DataError: a column or experiment is missing, fewer than two variants have users, a time is none, or no
            exposure can be used.
    """
    log = _pooled(log, *split.shares) if split.pooled else log
    log.need("time", "user", "variant")
    experiment, where = _of_experiment(connection, log, split)
    name = "CAST(NULL AS VARCHAR)" if experiment is None else literal(experiment)
    connection.execute(f"CREATE TABLE experiment AS SELECT {name} AS name")
    _read(connection, log, where)
    shares = _shares(connection, log, split)
    counts = _count(connection, shares)
    # Two users may share an id: then it is no name of one answer, and neither of them is the other's repetition.
    key = "user, request_id, CASE WHEN request_id IS NULL THEN {'variant': variant, 'time': time} END"
    connection.execute(
        "CREATE TABLE exposures AS SELECT * FROM raw_exposures "
        f"WHERE user IS NOT NULL AND time IS NOT NULL AND list_contains({text_list(list(shares))}, variant) "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY time, user, variant) = 1"
    )
    connection.execute("DROP TABLE raw_exposures")
    connection.execute(
        "CREATE TABLE everyone AS SELECT user, min({'time': time, 'variant': variant}) AS first, "
        "count(DISTINCT variant) > 1 AS crossed FROM exposures GROUP BY user"
    )
    if split.since is not None:
        before = f"FROM everyone WHERE first.time < {_moment(split.since)}"
        counts["users_before"] = _one(connection, f"SELECT count(*) {before}")[0]
        _check_since(connection, log, split.since, counts["users_before"])
        connection.execute(f"DELETE {before}")
    kept = "NOT crossed" if split.crossed == "drop" else "true"
    connection.execute(
        "CREATE TABLE users AS SELECT row_number() OVER (ORDER BY user) - 1 AS id, user, "
        f"list_position({text_list(list(shares))}, first.variant) - 1 AS arm, first.time AS first_time "
        f"FROM everyone WHERE {kept}"
    )
    connection.execute(
        "CREATE TABLE exposed AS SELECT id, user, arm, variant, time, CAST(time AS DATE) AS day, request_id, "
        "latency, failed FROM exposures JOIN users USING (user)"
    )
    found = _one(connection, "SELECT (SELECT count(*) FROM exposures), count_if(crossed), count(*) FROM everyone")
    counts |= {"repeated": counts.pop("known") - found[0], "users_crossed": found[1], "users_seen": found[2]}
    counts["kept"] = _one(connection, "SELECT count(*) FROM exposed")[0]
    if not counts["kept"]:
        raise log.error(f"should have exposures that can be used, received none in {counts['rows']:,} rows")
    connection.execute("DROP TABLE exposures; DROP TABLE everyone")
    return shares, counts | {"experiment": experiment}


def is_analysed(connection: duckdb.DuckDBPyConnection, log: Log) -> str:
    """Write the condition that a row of a log is of the analysed experiment; one that names none is of all of them.

    Args:
        connection: the database, with the table `experiment` of `find_users`.
        log: of outcomes or exposures.
    """
    name = _one(connection, "SELECT name FROM experiment")[0]
    if name is None or "experiment" not in log.types:
        return "true"
    return f"coalesce({log.text('experiment')} = {literal(name)}, true)"


def _read(connection: duckdb.DuckDBPyConnection, log: Log, where: str) -> None:
    """Make `raw_exposures` of text, times and numbers."""
    optional = {
        "request_id": log.text("request_id") if "request_id" in log.types else "CAST(NULL AS VARCHAR)",
        "latency": log.number("latency_ms") if "latency_ms" in log.types else "CAST(NULL AS DOUBLE)",
        "failed": _failed(log),
    }
    columns = ", ".join(f"{expression} AS {name}" for name, expression in optional.items())
    connection.execute(
        f"CREATE TABLE raw_exposures AS SELECT {log.text('user')} AS user, {log.text('variant')} AS variant, "
        f"{log.time('time')} AS time, {log.unread_time('time')} AS unread, {columns} FROM {log.relation} {where}"
    )
    log.check_times(connection, "time", "raw_exposures", "unread", where)
    connection.execute("ALTER TABLE raw_exposures DROP COLUMN unread")


def _moment(time: datetime) -> str:
    """Write a time as an SQL timestamp in UTC."""
    return f"TIMESTAMP {literal(time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' '))}"


def _check_since(connection: duckdb.DuckDBPyConnection, log: Log, since: datetime, before: int) -> None:
    """Refuse a time after which no user was new."""
    users, latest = _one(connection, "SELECT count(*), max(first.time) FROM everyone")
    if users and before == users:
        exposed = _one(connection, "SELECT max(time) FROM exposures")[0]
        raise log.error(
            f"should have users who were first seen at or after {since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}, received "
            f"none: the latest first exposure of a user is of {latest:%Y-%m-%dT%H:%M:%SZ}, the latest of all of "
            f"{exposed:%Y-%m-%dT%H:%M:%SZ}"
        )


def _pooled(log: Log, name: str) -> Log:
    """Give all rows one variant of one experiment."""
    others = [f"{identifier(column)}" for column in ("variant", "experiment") if column in log.types]
    left = f" EXCLUDE ({', '.join(others)})" if others else ""
    types = {key: kind for key, kind in log.types.items() if key != "experiment"} | {"variant": "VARCHAR"}
    return replace(log, relation=f"(SELECT *{left}, {literal(name)} AS variant FROM {log.relation})", types=types)


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def _failed(log: Log) -> str:
    """Whether an exposure went wrong: a text that is there, or true."""
    if "error" not in log.types:
        return "CAST(NULL AS BOOLEAN)"
    if log.types["error"] == "BOOLEAN":
        return f"coalesce({identifier('error')}, false)"
    return f"{log.text('error')} IS NOT NULL"


def _of_experiment(connection: duckdb.DuckDBPyConnection, log: Log, split: Split) -> tuple[str | None, str]:
    """Keep one experiment; a log of several needs its name. Returns the name and a condition."""
    if "experiment" not in log.types:
        if split.experiment is not None:
            log.need("experiment")
        return None, ""
    column = log.text("experiment")
    if split.experiment is not None:
        where = f"WHERE {column} = {literal(split.experiment)}"
        if connection.execute(f"SELECT 1 FROM {log.relation} {where} LIMIT 1").fetchone() is not None:
            return split.experiment, where
    rows = connection.execute(f"SELECT DISTINCT {column} FROM {log.relation}").fetchall()
    names = sorted(str(row[0]) for row in rows if row[0] is not None)
    if split.experiment is not None:
        raise log.error(f"experiment '{split.experiment}' has no rows; {_some(names, split.experiment)}")
    if len(names) > 1:
        raise log.error(f"holds several experiments, name one; {_some(names)}")
    return (names[0] if names else None), ""


def _some(names: list[str], received: str | None = None) -> str:
    """Name the valid choices, not more than can be read; the nearest one is among them."""
    near = difflib.get_close_matches(received, names, n=1) if received else []
    shown = list(dict.fromkeys([*near, *names]))[:_NAMED]
    more = len(names) - len(shown)
    return choices(shown, received) + (f" and {more:,} more" if more else "")


def _shares(connection: duckdb.DuckDBPyConnection, log: Log, split: Split) -> dict[str, float]:
    """Take the planned shares, or equal ones of the variants that occur; the base comes first."""
    query = "SELECT DISTINCT variant FROM raw_exposures WHERE variant IS NOT NULL AND user IS NOT NULL"
    seen = sorted(str(row[0]) for row in connection.execute(query).fetchall())
    shares = dict(split.shares) or {name: 1 / len(seen) for name in seen}
    rows = _one(connection, "SELECT count(*) FROM raw_exposures")[0]
    if not seen:
        raise log.error(f"should have exposures with a user and a variant, received none in {rows:,} rows")
    if not (split.known or split.pooled):
        _check_names(connection, split)
    if (len(shares) < 2 and not split.pooled) or not set(shares) & set(seen):
        raise log.error(
            f"should have exposures of at least two variants, received: {', '.join(seen)}; planned: {', '.join(shares)}"
        )
    base = split.base if split.base is not None else next(iter(shares))
    if base not in shares:
        raise DataError(f"base should be one of the variants, received '{base}'; {choices(shares, base)}")
    return {base: shares[base]} | shares


def _check_names(connection: duckdb.DuckDBPyConnection, split: Split) -> None:
    """Refuse a share of a variant that does not occur where one that occurs has none."""
    # A variant that was given up before the time that counts is no other one's right name.
    since = f" AND time >= {_moment(split.since)}" if split.since is not None else ""
    query = f"SELECT DISTINCT variant FROM raw_exposures WHERE variant IS NOT NULL AND user IS NOT NULL{since}"
    seen = {str(row[0]) for row in connection.execute(query).fetchall()}
    absent = [name for name in split.shares if name not in seen]
    if absent and seen - set(split.shares):
        raise ConfigError(
            f"shares should be of variants of the exposures, received one of '{absent[0]}'; {choices(seen, absent[0])}"
        )


def _count(connection: duckdb.DuckDBPyConnection, shares: Mapping[str, float]) -> dict[str, Any]:
    """Count the rows that are left out, each once, by its first reason."""
    known = f"list_contains({text_list(list(shares))}, variant)"
    names = ("rows", "without_user", "without_variant", "without_time", "unknown_variant", "known")
    values = _one(
        connection,
        "SELECT count(*), count_if(user IS NULL), count_if(user IS NOT NULL AND variant IS NULL), "
        "count_if(user IS NOT NULL AND variant IS NOT NULL AND time IS NULL), "
        f"count_if(user IS NOT NULL AND time IS NOT NULL AND NOT {known}), "
        f"count_if(user IS NOT NULL AND time IS NOT NULL AND {known}) FROM raw_exposures",
    )
    counts: dict[str, Any] = dict(zip(names, values, strict=True))
    query = f"SELECT DISTINCT variant FROM raw_exposures WHERE NOT {known} ORDER BY 1 LIMIT {_NAMED}"
    return counts | {"unknown_variants": [str(row[0]) for row in connection.execute(query).fetchall()]}
