"""GAUC: the AUC within users. Shape legend: N rows, U users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.metrics import Undefined, Value, checked_rows

__all__ = ["GroupedAuc", "gauc"]

Array = NDArray[Any]


@dataclass(frozen=True)
class GroupedAuc:
    """The AUC within users.

    Args:
        value: mean of the users' AUCs.
        covered: share of the rows (by weight) that belong to a user with both classes, in [0, 1].
        users: number of users with both classes.
    """

    value: Value
    covered: float
    users: int


def gauc(scores: Array, labels: Array, user: Array, weights: Array | None = None) -> GroupedAuc:
    """Compute the mean AUC within users, each weighted by its rows.

    GAUC = sum_u n_u AUC_u / sum_u n_u over the users with both classes; the others have no AUC and are left out.

    Args:
        scores: [N] numbers; larger means more likely.
        labels: [N] bool or {0, 1}.
        user: [N] whole numbers.
        weights: [N] >= 0, or None for one each.

    Source: Zhou et al., KDD 2018, "Deep interest network", section 5.3 (weighted by impressions).

    Example:
        >>> gauc(np.array([0.1, 0.9, 0.5, 0.4]), np.array([0, 1, 0, 0]), np.array([7, 7, 8, 8]))
        GroupedAuc(value=1.0, covered=0.5, users=1)
    """
    labels, weight, (scores, user) = checked_rows(labels, weights, scores, user)
    rows, positives = len(labels), int(np.count_nonzero(labels))
    if not positives:
        return GroupedAuc(Undefined(f"no positives in {rows} rows" if rows else "no rows"), 0.0, 0)
    w = np.ones(rows) if weight is None else weight
    # Only users with a positive can have both classes; they are few at small rates, and only they are sorted.
    known = np.unique(user[labels])  # [U]
    place = np.searchsorted(known, user).clip(max=len(known) - 1)
    kept = np.flatnonzero(known[place] == user)
    kept = kept[np.lexsort((scores[kept], place[kept]))]
    values, mass = _auc_by_group(scores[kept], labels[kept], w[kept], place[kept], len(known))
    both = ~np.isnan(values)
    if not both.any():
        return GroupedAuc(Undefined(f"no user has both classes: {positives} positives of {rows} rows"), 0.0, 0)
    covered = mass[both].sum()
    return GroupedAuc(float(np.dot(mass[both], values[both]) / covered), float(covered / w.sum()), int(both.sum()))


def _auc_by_group(s: Array, y: Array, w: Array, group: Array, groups: int) -> tuple[Array, Array]:
    """Rows sorted by (group, score) -> AUC (NaN where a class is missing) and weight of each group, [U] each."""
    positive, negative = np.bincount(group, w * y, groups), np.bincount(group, w * ~y, groups)
    first = np.flatnonzero(np.append(True, (s[1:] != s[:-1]) | (group[1:] != group[:-1])))  # first row of every tie
    tie_positive, tie_negative = np.add.reduceat(w * y, first), np.add.reduceat(w * ~y, first)
    group = group[first]
    below = np.cumsum(tie_negative) - tie_negative - (np.cumsum(negative) - negative)[group]
    won = np.bincount(group, tie_positive * (below + 0.5 * tie_negative), groups)
    pairs = positive * negative
    return np.divide(won, pairs, out=np.full(groups, np.nan), where=pairs > 0), positive + negative
