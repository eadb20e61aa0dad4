"""Outcome log -> outcomes of exposed users, each with the exposure it is put down to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import duckdb

from funnelcast.errors import DataError
from funnelcast.experiment.exposed_users import is_analysed
from funnelcast.experiment.logs import LARGEST, Log

__all__ = ["Attribution", "attribute"]

Join = Literal["auto", "user", "request_id"]
COPIES = '"funnelcast:copies"'
_WANTED = f"finite numbers from 0 to {LARGEST:.0e}, or null"
_NO_STEPS = {"time", "user", "experiment", "variant", "request_id", "event_id", "model_version"}


@dataclass(frozen=True)
class Attribution:
    """How outcomes find their exposures.

    Args:
        steps: columns of the outcomes in funnel order, each a number of events or an amount a row, >= 0, null for none;
            empty: every column that is not one of the exposure log.
        join: by `user` and time: an outcome belongs to the last exposure of its user at or before it; by
            `request_id`: to the exposure of that id; `auto`: by `request_id` where both logs have it.
        window: an outcome later than this after its exposure does not count, nor does one without a time; None for no
            limit.

    Raises:
        DataError: the window is not above 0, or a step is named twice.
    """

    steps: tuple[str, ...] = ()
    join: Join = "auto"
    window: timedelta | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window <= timedelta(0):
            raise DataError(f"window should be above 0, received {self.window}")
        if len(set(self.steps)) < len(self.steps):
            raise DataError(f"steps should be named once, received {', '.join(self.steps)}")


def attribute(
    connection: duckdb.DuckDBPyConnection, log: Log, plan: Attribution, *, has_request: bool
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Make the table `outcomes` (id, exposed_day, known_day, x0, x1, ...) from `users` and `exposed`.

    Left out and counted: rows of another experiment (one that names none is of all), without user (or request) or
    time, rows that repeat another in every column, of users without an exposure in the analysis, before the first
    exposure, and later than the window.

    Args:
        connection: the database, with the tables of `find_users`.
        log: of the outcomes.
        plan: how outcomes find their exposures.
        has_request: whether the exposures have ids.

    Returns:
        The steps, and what was counted.

    Raises:
        DataError: a column is missing or of the wrong type, a time is none, a number is below 0 or above 1e50, or a
            request that outcomes are joined by is of several users.
    """
    by_request = plan.join == "request_id" or (plan.join == "auto" and has_request and "request_id" in log.types)
    timed = [] if by_request and plan.window is None else ["time"]
    log.need("request_id" if by_request else "user", *timed)
    if by_request and not has_request:
        raise log.error("joining by request_id needs that column in the exposures as well")
    steps = plan.steps or tuple(name for name in log.types if name not in _NO_STEPS)
    if not steps:
        raise log.error(f"should have a column a step, received {', '.join(log.types)}")
    log.need(*steps)
    _read(connection, log, steps, by_request=by_request, timed=bool(timed))
    if by_request:
        _check_requests(connection, log)
    late = (
        "false"
        if plan.window is None
        else f"time > since + to_microseconds({plan.window // timedelta(microseconds=1)})"
    )
    _join(connection, steps, by_request=by_request, late=late)
    counts = _count(connection)
    numbers = ", ".join(f"x{i}" for i in range(len(steps)))
    connection.execute(
        f"CREATE TABLE outcomes AS SELECT id, CAST(since AS DATE) AS exposed_day, "
        f"CAST(coalesce(time, since) AS DATE) AS known_day, {numbers} FROM joined WHERE state = 3"
    )
    connection.execute("DROP TABLE joined; DROP TABLE raw_outcomes")
    return steps, counts | {"joined_by": "request_id" if by_request else "user"}


def _check_requests(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Refuse an id of several users: its outcomes would count for each of them."""
    # After `find_users` the log has a request once for each of its users.
    shared = connection.execute(
        "SELECT request_id, count(*) FROM exposed WHERE request_id IS NOT NULL "
        "GROUP BY request_id HAVING count(*) > 1 ORDER BY request_id LIMIT 1"
    ).fetchone()
    if shared is not None:
        raise log.error(
            "joining by request_id needs exposures whose column 'request_id' holds ids of one user each, received "
            f"{shared[0]!r} of {shared[1]:,} users; --join user goes by user and time"
        )


def _count(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Count the rows of `joined`, each once, by its first reason."""
    names = (
        *("rows", "other_experiment", "without_key_or_time", "repeated"),
        *("without_exposure", "before_exposure", "late", "kept"),
    )
    row = connection.execute(
        "SELECT coalesce(sum(copies), 0)::BIGINT, coalesce(sum(copies) FILTER (state = -2), 0)::BIGINT, "
        "coalesce(sum(copies) FILTER (state = -1), 0)::BIGINT, "
        "coalesce(sum(copies - 1) FILTER (state >= 0), 0)::BIGINT, "
        "count_if(state = 0), count_if(state = 1), count_if(state = 2), count_if(state = 3) FROM joined"
    ).fetchone()
    assert row is not None
    return dict(zip(names, row, strict=True))


def _read(
    connection: duckdb.DuckDBPyConnection, log: Log, steps: Sequence[str], *, by_request: bool, timed: bool
) -> None:
    """Make `raw_outcomes` (key, time, other, copies, x...) of distinct rows; a row that cannot be joined has no key."""
    numbers = ", ".join(f"coalesce({log.number(step)}, 0) AS x{i}" for i, step in enumerate(steps))
    time = log.time("time") if "time" in log.types else "CAST(NULL AS TIMESTAMP)"
    unread = log.unread_time("time") if "time" in log.types else "CAST(NULL AS VARCHAR)"
    key = log.text("request_id" if by_request else "user")
    key = f"CASE WHEN {time} IS NOT NULL THEN {key} END" if timed else key
    connection.execute(
        f"CREATE TABLE raw_outcomes AS SELECT {key} AS key, {time} AS time, {unread} AS unread, "
        f"NOT {is_analysed(connection, log)} AS other, {COPIES} AS copies, {numbers} "
        f"FROM (SELECT *, count(*) AS {COPIES} FROM {log.relation} GROUP BY ALL)"
    )
    if "time" in log.types:
        log.check_times(connection, "time", "raw_outcomes", "unread")
    bad = connection.execute(
        "SELECT " + ", ".join(f"count_if({_no_count(f'x{i}')})" for i in range(len(steps))) + " FROM raw_outcomes"
    ).fetchone()
    assert bad is not None
    for step, count in zip(steps, bad, strict=True):
        if count:
            raise log.refusal(connection, step, _no_count(log.number(step)), _WANTED)


def _no_count(number: str) -> str:
    return f"({number} NOT BETWEEN 0 AND {LARGEST})"  # NaN is above all numbers


def _join(connection: duckdb.DuckDBPyConnection, steps: Sequence[str], *, by_request: bool, late: str) -> None:
    """Make `joined` (id, since, time, copies, state, x...) with the states below."""
    numbers = ", ".join(f"o.x{i}" for i in range(len(steps)))
    columns = f"e.id, e.time AS since, o.time, o.key, o.other, o.copies, {numbers}"
    if by_request:
        source = f"SELECT {columns}, e.id AS known FROM raw_outcomes o LEFT JOIN exposed e ON o.key = e.request_id"
        early = "time < since"
    else:
        source = (
            f"SELECT {columns}, u.id AS known FROM raw_outcomes o "
            "LEFT JOIN users u ON o.key = u.user "
            "ASOF LEFT JOIN exposed e ON o.key = e.user AND o.time >= e.time"
        )
        early = "since IS NULL"
    # -2: another experiment, -1: no key, 0: no exposure, 1: before it, 2: later than the window, 3: kept.
    connection.execute(
        "CREATE TABLE joined AS SELECT *, CASE WHEN other THEN -2 WHEN key IS NULL THEN -1 WHEN known IS NULL THEN 0 "
        f"WHEN {early} THEN 1 WHEN {late} THEN 2 ELSE 3 END AS state FROM ({source})"
    )
