"""Past data -> rates and variances of every step, clustered by user, and how many new users come a day."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
from numpy.typing import NDArray

from funnelcast.data.sql import identifier, literal
from funnelcast.errors import ArtifactError, DataError
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.design import StepVariance
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files, join_logs
from funnelcast.experiment.looks import Totals
from funnelcast.experiment.ratio import Estimate, ratio
from funnelcast.metrics import Undefined
from funnelcast.schema import TIME_COLUMN, USER_COLUMN, WEIGHT_COLUMN, Schema, label_column

__all__ = ["History", "history_of_logs", "history_of_shards", "step_variance"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """What the past says.

    Args:
        steps: rate and variance of each.
        users: how many there were.
        units: exposures (or rows) in all.
        newcomers: users that were new on each day; empty where no time is known.
    """

    steps: tuple[StepVariance, ...]
    users: int
    units: float
    newcomers: tuple[int, ...]


def step_variance(name: str, events: Floats, units: Floats, covariate: Floats | None = None) -> StepVariance:
    """Measure rate and variance of a step, v = U Var(log r), from counts by user.

    Args:
        name: of the step.
        events: [U] events of each user.
        units: [U] exposures of each user, or 1 each.
        covariate: [U] known before, NaN where not; None without one.

    Raises:
        DataError: there are no events, or all users are alike.

    Example:
        >>> found = step_variance("click", np.array([1.0, 0, 2]), np.array([2.0, 2, 4]))
        >>> found.rate, round(found.log_variance, 6)  # 3 * (21 / 1024) / (3 / 8)^2
        (0.375, 0.4375)
    """
    rate = ratio(events, units)
    if isinstance(rate, Undefined) or rate.value <= 0 or not rate.influence.any():
        reason = rate.reason if isinstance(rate, Undefined) else "no events, or users that are all alike"
        raise DataError(f"history of step '{name}' should have events of users who differ, received: {reason}")
    users, mean = int(np.count_nonzero(units)), float(units.sum()) / int(np.count_nonzero(units))
    variance = users * (rate.standard_error / rate.value) ** 2
    independent = (1 - rate.value) / (rate.value * mean)
    effect = variance / independent if 0 < rate.value < 1 else None
    explained = None if covariate is None else _explained(rate, covariate, units > 0)
    return StepVariance(name, rate.value, variance, explained, effect)


def _explained(rate: Estimate, covariate: Floats, come: NDArray[np.bool_]) -> float:
    """Squared correlation of a rate's influence with the covariate, over the users who came."""
    known = np.isfinite(covariate) & come
    filled = np.where(known, covariate, covariate[known].mean() if known.any() else 0.0)
    mean = ratio(np.where(come, filled, 0.0), come.astype(np.float64))
    if isinstance(mean, Undefined) or not mean.influence.any():
        return 0.0
    both = float(rate.influence @ mean.influence)
    return both**2 / float((rate.influence @ rate.influence) * (mean.influence @ mean.influence))


def history_of_logs(files: Files, attribution: Attribution, per: Literal["exposure", "user"]) -> History:
    """Measure exposures and outcomes of the past; their variants, if any, do not matter.

    Args:
        files: the logs.
        attribution: how outcomes find their exposures.
        per: unit of the rates.

    Raises:
        ConfigError: the memory limit or the number of threads is impossible.
        DataError: a log is missing, unreadable, or does not have what it should.
    """
    joined = join_logs(files, Split({"all": 1.0}, pooled=True), attribution)
    totals = Totals(joined, per)
    for exposed, events in zip(joined.exposed, joined.known, strict=True):
        totals.add(exposed, events)
    units = totals.units
    steps = [step_variance(name, totals.events[:, i], units, joined.covariate) for i, name in enumerate(joined.steps)]
    # Days with outcomes alone come after the last exposure.
    days = [int(row.sum()) for row, cells in zip(joined.newcomers, joined.exposed, strict=True) if len(cells.user)]
    return History(tuple(steps), len(joined.arm), float(totals.exposed.sum()), tuple(days))


def history_of_shards(folder: Path, per: Literal["exposure", "user"] = "exposure") -> History:
    """Measure all rows of a prepared folder: a row is an exposure, its labels are the outcomes.

    Args:
        folder: the prepared folder.
        per: unit of the rates.

    Raises:
        ArtifactError: the folder is none, or a shard cannot be read.
        DataError: its rows have no user.
    """
    schema = Schema.load(folder / "schema.json")
    if not schema.has_user:
        raise DataError(f"{folder}: rows should have a user, so that the variance is that of users, received none")
    shards = f"read_parquet({literal(glob.escape(str(folder)) + '/*/*.parquet')})"
    weight = identifier(WEIGHT_COLUMN) if schema.has_weight else "1"
    columns = []
    for i, name in enumerate(schema.step_names):
        label = identifier(label_column(name))
        columns.append(f"coalesce(sum({label} * {weight}), 0)::DOUBLE AS x{i}")
        columns.append(f"coalesce(sum({weight}) FILTER ({label} IS NOT NULL), 0)::DOUBLE AS n{i}")
    user = identifier(USER_COLUMN)
    try:
        with duckdb.connect() as connection:
            found = connection.execute(f"SELECT {', '.join(columns)} FROM {shards} GROUP BY {user} ORDER BY {user}")
            counts = {name: np.asarray(values, dtype=np.float64) for name, values in found.fetchnumpy().items()}
            days = _newcomers(connection, shards)
    except duckdb.Error as error:
        raise ArtifactError(f"{folder}: should hold readable shards, received: {str(error).splitlines()[0]}") from error
    steps = []
    for i, name in enumerate(schema.step_names):
        units = counts[f"n{i}"]
        steps.append(step_variance(name, counts[f"x{i}"], units if per == "exposure" else (units > 0).astype(float)))
    return History(tuple(steps), len(counts["n0"]), float(counts["n0"].sum()), tuple(days))


def _newcomers(connection: duckdb.DuckDBPyConnection, shards: str) -> Sequence[int]:
    """Count new users a day, where rows have a time."""
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {shards}").fetchall()]
    if TIME_COLUMN not in names:
        return []
    rows = connection.execute(
        f"SELECT day, count(*) FROM (SELECT CAST(min({identifier(TIME_COLUMN)}) AS DATE) AS day FROM {shards} "
        f"GROUP BY {identifier(USER_COLUMN)}) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return [int(row[1]) for row in rows]
