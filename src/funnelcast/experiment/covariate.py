"""What was known of users before the experiment, and how it makes intervals narrower (CUPED).

Shape legend: U users, A arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import DataError
from funnelcast.experiment.exposed_users import is_analysed
from funnelcast.experiment.logs import LARGEST, Log, open_log
from funnelcast.experiment.ratio import Estimate, ratio
from funnelcast.metrics import Undefined

__all__ = ["Covariate", "adjusted", "read_covariate"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Covariate:
    """Where the covariate stands.

    Args:
        files: paths or globs with `user` and the covariate, one row a user; empty: it is a column of the exposures, of
            which the user's first one counts, even where it is null: a later value may be the variant's doing. Of
            several at that moment the smallest counts.
        column: its name; None for the only other column of the files.
    """

    files: tuple[str, ...] = ()
    column: str | None = None


def read_covariate(
    connection: duckdb.DuckDBPyConnection, plan: Covariate, exposures: Log, users: int
) -> tuple[Floats, dict[str, Any]]:
    """Read the covariate of the table `users`.

    Args:
        connection: the database, with the tables of `exposed_users.find_users`.
        plan: where the covariate stands.
        exposures: the exposure log.
        users: U.

    Returns:
        [U] values, NaN for users without one, and what was counted.

    Raises:
        DataError: a column is missing or of the wrong type, a value is no number up to 1e50, or a user has two rows.
    """
    log = open_log(connection, plan.files, "covariates") if plan.files else exposures
    column = _column(plan, log)
    log.need("user", column)
    log.check_numbers(connection, column)  # what is none would be a user without a past
    value, user = log.number(column), log.text("user")
    if plan.files:
        twice = connection.execute(
            f"SELECT {user} AS user FROM {log.relation} WHERE {user} IS NOT NULL GROUP BY ALL HAVING count(*) > 1 "
            "ORDER BY 1 LIMIT 1"
        ).fetchone()
        if twice is not None:
            raise log.error(f"should have one row a user, received two or more of '{twice[0]}'")
        found = f"SELECT {user} AS user, {value} AS value FROM {log.relation}"
        first = "true"
    else:
        found = (
            f"SELECT {user} AS user, {value} AS value, {log.time('time')} AS time FROM {log.relation} "
            f"WHERE {is_analysed(connection, log)}"
        )
        first = "time = first_time"
    # The least of several at one moment, so that the order of the rows does not matter.
    known = connection.execute(
        f"SELECT id, min(value) AS value FROM users JOIN ({found}) USING (user) "
        f"WHERE {first} AND isfinite(value) GROUP BY id"
    ).fetchnumpy()
    values = np.full(users, np.nan)
    values[known["id"].astype(np.int64)] = known["value"]
    if (np.abs(values) > LARGEST).any():
        wrong = f"isfinite({value}) AND abs({value}) > {LARGEST}"
        raise log.refusal(connection, column, wrong, f"numbers from {-LARGEST:.0e} to {LARGEST:.0e}, or null")
    return values, {"column": column, "users_with": len(known["id"]), "users_without": users - len(known["id"])}


def _column(plan: Covariate, log: Log) -> str:
    if plan.column is not None:
        return plan.column
    others = [name for name in log.types if name != "user"]
    if not plan.files or len(others) != 1:
        raise DataError(f"covariate should be named, received none; {log.what} have: {', '.join(others)}")
    return others[0]


def adjusted(
    rates: Sequence[Estimate | Undefined], covariate: Floats, members: Sequence[NDArray[np.bool_]]
) -> list[Estimate | Undefined]:
    """Take out of every arm's rate what its users' past explains.

    r_a' = r_a - theta (c_a - c), theta = sum_a,u i_a,u k_a,u / sum_a,u k_a,u^2, where c_a is the mean covariate of an
    arm, c that of all users, and i and k are the influences of r_a and c_a. For a mean of users this is CUPED; for a
    ratio it is its linearised form. The expectation of a difference of arms stays as it was, since users were assigned
    by chance; its variance shrinks by the squared correlation.

    Args:
        rates: A estimates over the same U users.
        covariate: [U] known before the first exposure; NaN counts as the mean of the known ones.
        members: A times [U], whether a user is in the arm.

    Returns:
        A estimates; a rate without influence, and all of them where the covariate does not vary, stay as they are.

    Source: Deng, Xu, Kohavi and Walker, WSDM 2013, "Improving the sensitivity of online controlled experiments by
        utilizing pre-experiment data"; for ratios Deng, Knoblich and Lu, KDD 2018, section 4.

    Example:
        >>> arms = [np.array([True, True, False, False]), np.array([False, False, True, True])]
        >>> rates = [ratio(np.array([1.0, 3, 2, 4]) * arm, arm * 1) for arm in arms]
        >>> [r.value for r in adjusted(rates, np.array([1.0, 3.0, 1.0, 3.0]), arms)]  # both arms have the same past
        [2.0, 3.0]
        >>> [round(r.standard_error, 6) for r in adjusted(rates, np.array([1.0, 3.0, 1.0, 3.0]), arms)]
        [0.57735, 0.57735]
    """
    known = np.isfinite(covariate)
    filled = np.where(known, covariate, covariate[known].mean() if known.any() else 0.0)
    means = [ratio(filled * member, member.astype(np.float64)) for member in members]
    whole = ratio(filled, np.ones_like(filled))
    pairs = [(r, c) for r, c in zip(rates, means, strict=True) if isinstance(r, Estimate) and isinstance(c, Estimate)]
    spread = sum(float(c.influence @ c.influence) for _, c in pairs)
    if isinstance(whole, Undefined) or spread == 0:
        return list(rates)
    theta = sum(float(r.influence @ c.influence) for r, c in pairs) / spread
    found: list[Estimate | Undefined] = []
    for rate, mean in zip(rates, means, strict=True):
        if isinstance(rate, Undefined) or isinstance(mean, Undefined):
            found.append(rate)
            continue
        shift = theta * (mean.value - whole.value)
        found.append(Estimate(rate.value - shift, rate.influence - theta * (mean.influence - whole.influence)))
    return found
