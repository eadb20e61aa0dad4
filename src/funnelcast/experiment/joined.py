"""Exposures joined to outcomes, as counts by user and day.

Shape legend: U users, S steps, A variants, K cells of one day.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from funnelcast.data.sql import bytes_of, connect
from funnelcast.errors import ConfigError, DataError
from funnelcast.experiment.attribution import Attribution, attribute
from funnelcast.experiment.covariate import Covariate, read_covariate
from funnelcast.experiment.exposed_users import Split, find_users
from funnelcast.experiment.logs import open_log

__all__ = ["Cells", "Files", "Joined", "daily_newcomers", "join_logs", "open_database", "service_by_variant"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_DATABASE_SHARE = 0.6  # of the memory limit; the rest is for counts by user and the libraries themselves


@dataclass(frozen=True)
class Files:
    """The logs and how they are read.

    Args:
        exposures: paths or globs of the exposure log, see `exposure.EXPOSURE_COLUMNS`.
        outcomes: paths or globs of the outcomes.
        covariate: what was known of the users before, if anything.
        memory_limit: what the database should stay below, such as `1GB`; at least 256MB.
        threads: of the database, >= 1; None for one a processor.
    """

    exposures: tuple[str, ...]
    outcomes: tuple[str, ...]
    covariate: Covariate | None = None
    memory_limit: str = "1GB"
    threads: int | None = None


@dataclass(frozen=True)
class Cells:
    """Counts of the users of one day.

    Args:
        user: [K] ids, each once.
        count: [K] exposures, or [K, S] outcomes.
    """

    user: Integers
    count: Floats


@dataclass(frozen=True)
class Joined:
    """Everything that an analysis needs.

    Args:
        shares: variant -> planned share, the base first.
        steps: S names.
        arm: [U] number of each user's variant.
        days: dates with an exposure or an outcome, in order.
        exposed: for every day its exposures.
        known: for every day the outcomes of that day, by which looks grow.
        caused: for every day the outcomes of its exposures, by which daily rates are made.
        newcomers: [days, A] users whose first exposure was on that day.
        covariate: [U] or None; NaN for users without one.
        counts: rows that were read, left out and kept, by log.
        service: for every variant exposures, latency and errors; empty where the log has neither.
        experiment: its name, where the log has one.
    """

    shares: dict[str, float]
    steps: tuple[str, ...]
    arm: Integers
    days: list[date]
    exposed: list[Cells]
    known: list[Cells]
    caused: list[Cells]
    newcomers: Integers
    covariate: Floats | None
    counts: dict[str, dict[str, Any]]
    service: list[dict[str, Any]] = field(default_factory=list)
    experiment: str | None = None


def join_logs(files: Files, split: Split, attribution: Attribution) -> Joined:
    """Read the logs and join them.

    Args:
        files: the logs.
        split: how users were meant to be split.
        attribution: how outcomes find their exposures.

    Raises:
        ConfigError: the memory limit or the number of threads is impossible, or the limit too small.
        DataError: a log is missing, unreadable, or does not have what it should.
    """
    with open_database(files) as connection:
        exposures = open_log(connection, files.exposures, "exposures")
        shares, counts = find_users(connection, exposures, split)
        experiment = counts.pop("experiment")
        outcomes = open_log(connection, files.outcomes, "outcomes")
        has_request = "request_id" in exposures.types
        steps, outcome_counts = attribute(connection, outcomes, attribution, has_request=has_request)
        found = {"exposures": counts, "outcomes": outcome_counts}
        arm = connection.execute("SELECT arm FROM users ORDER BY id").fetchnumpy()["arm"].astype(np.int64)
        covariate = None
        if files.covariate is not None:
            covariate, found["covariates"] = read_covariate(connection, files.covariate, exposures, len(arm))
        days = _days(connection)
        sums = [f"sum(x{i})" for i in range(len(steps))]
        return Joined(
            shares=shares,
            steps=steps,
            arm=arm,
            days=days,
            exposed=_cells(connection, "exposed", "day", ["count(*)"], days),
            known=_cells(connection, "outcomes", "known_day", sums, days),
            caused=_cells(connection, "outcomes", "exposed_day", sums, days),
            newcomers=daily_newcomers(connection, days, len(shares)),
            covariate=covariate,
            counts=found,
            service=service_by_variant(connection, list(shares)),
            experiment=experiment,
        )


@contextmanager
def open_database(files: Files) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the database; what goes wrong in it becomes an error of ours.

    Args:
        files: the logs, with the limits.

    Raises:
        ConfigError: the memory limit or the number of threads is impossible, or the limit too small.
        DataError: a log cannot be read.
    """
    memory = bytes_of(files.memory_limit)
    threads = files.threads if files.threads is not None else os.cpu_count() or 1
    if threads < 1:
        raise ConfigError(f"threads should be at least 1, received {threads}")
    with tempfile.TemporaryDirectory(prefix="funnelcast-") as spill:
        try:
            with connect(Path(spill), int(memory * _DATABASE_SHARE), threads) as connection:
                yield connection
        except duckdb.OutOfMemoryException as error:
            raise ConfigError(
                f"memory limit should be larger for these logs, received {files.memory_limit}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):
            raise  # no fault of the logs
        except duckdb.Error as error:
            logs = ", ".join((*files.exposures, *files.outcomes)[:3])
            raise DataError(f"{logs}: should be readable logs, received: {str(error).splitlines()[0]}") from error


def _days(connection: duckdb.DuckDBPyConnection) -> list[date]:
    query = (
        "SELECT day FROM exposed UNION SELECT known_day FROM outcomes UNION SELECT exposed_day FROM outcomes ORDER BY 1"
    )
    return [row[0] for row in connection.execute(query).fetchall()]


def _cells(
    connection: duckdb.DuckDBPyConnection, table: str, day: str, counts: list[str], days: list[date]
) -> list[Cells]:
    """Sum a table by day and user; a day without rows has no cells."""
    columns = ", ".join(f"CAST({count} AS DOUBLE) AS c{i}" for i, count in enumerate(counts))
    found = connection.execute(
        f"SELECT {day} AS day, id, {columns} FROM {table} GROUP BY ALL ORDER BY day, id"
    ).fetchnumpy()
    values = np.stack([found[f"c{i}"] for i in range(len(counts))], axis=1)
    starts = np.searchsorted(found["day"].astype("datetime64[D]"), np.array([*days], dtype="datetime64[D]"))
    bounds = [*starts.tolist(), len(values)]
    users = found["id"].astype(np.int64)
    return [
        Cells(users[low:high], values[low:high, 0] if table == "exposed" else values[low:high])
        for low, high in pairwise(bounds)
    ]


def daily_newcomers(connection: duckdb.DuckDBPyConnection, days: list[date], arms: int) -> Integers:
    """Count the users [days, A] whose first exposure was on a day.

    Args:
        connection: with the table `users`.
        days: all days that occur.
        arms: number of variants A.
    """
    rows = connection.execute("SELECT CAST(first_time AS DATE), arm, count(*) FROM users GROUP BY ALL").fetchall()
    counts = np.zeros((len(days), arms), dtype=np.int64)
    for day, arm, count in rows:
        counts[days.index(day), arm] = count
    return counts


def service_by_variant(connection: duckdb.DuckDBPyConnection, variants: list[str]) -> list[dict[str, Any]]:
    """Measure latency and errors by variant; empty where the log has neither. NaN and infinity are no latency.

    Args:
        connection: with the table `exposed`.
        variants: in the order of the answer.
    """
    rows = connection.execute(
        "SELECT variant, count(*), quantile_cont(latency, 0.5), quantile_cont(latency, 0.95), "
        "quantile_cont(latency, 0.99), avg(CAST(failed AS INTEGER)) FROM (SELECT variant, failed, "
        "CASE WHEN isfinite(latency) THEN latency END AS latency FROM exposed) GROUP BY variant"
    ).fetchall()
    names = ("exposures", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "error_share")
    found = [{"variant": row[0], **dict(zip(names, row[1:], strict=True))} for row in rows]
    found.sort(key=lambda entry: variants.index(entry["variant"]))
    measured = any(entry["latency_ms_p50"] is not None or entry["error_share"] is not None for entry in found)
    return found if measured else []
