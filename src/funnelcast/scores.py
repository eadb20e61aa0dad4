"""Scores: predictions beside what happened, for every row and step; their metrics and curves.

Shape legend: N rows, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from funnelcast import metrics
from funnelcast.curves import precision_recall_points, reliability, roc_points, score_histogram
from funnelcast.errors import DataError
from funnelcast.gauc import gauc
from funnelcast.metrics import Undefined, Value
from funnelcast.value_metrics import value_deciles, value_metrics

__all__ = ["OUTCOMES", "SPACES", "Scores", "Space", "as_json", "funnel_curves", "funnel_metrics"]

Array = NDArray[Any]
Space = Literal["reach", "transition"]
SPACES: tuple[Space, Space] = ("reach", "transition")
# What stands beside labels and predictions, under the same names as in a batch.
OUTCOMES = ("observed", "weight", "user", "true_reach", "true_transition", "true_potential", "value", "scope")
_LOGS = ("log_reach", "log_not_reach", "log_transition", "log_not_transition")


@dataclass(frozen=True)
class Scores:
    """Predictions and labels of the rows of a split, in order.

    Args:
        steps: names of the steps in funnel order.
        log_reach: [N, S] float32 log p_i <= 0.
        log_not_reach: [N, S] log(1 - p_i).
        log_transition: [N, S] log c_i.
        log_not_transition: [N, S] log(1 - c_i).
        labels: [N, S] bool; what stands under an unobserved label is not read.
        observed: [N, S] bool, whether the label is known.
        weight: [N] float32 >= 0, sample weight.
        user: [N] int64 hashed user id, or None.
        true_reach: [N, S] float32 true reach of simulated data, or None.
        true_transition: [N, S] float32 true transition of simulated data, or None.
        true_potential: [N, S] float32 potential rate of simulated data, or None.
        value: [N] float32 >= 0 value of the last step, read where its label is observed; None where it is an event.
        expected_value: [N] float32 E[v | x] >= 0, or None.
        log_mean_value: [N] float32 log E[v | last step, x], or None.
        scope: [N, S] bool, whether a row is known to lie in a step's scope, where the steps form a graph, or None.

    Raises:
        ValueError: shapes or types do not fit together.
        DataError: a prediction is not a log-probability, or an expected value is not a number >= 0, as after a
            diverged training.
    """

    steps: tuple[str, ...]
    log_reach: Array
    log_not_reach: Array
    log_transition: Array
    log_not_transition: Array
    labels: Array
    observed: Array
    weight: Array
    user: Array | None = None
    true_reach: Array | None = None
    true_transition: Array | None = None
    true_potential: Array | None = None
    value: Array | None = None
    expected_value: Array | None = None
    log_mean_value: Array | None = None
    scope: Array | None = None

    def __post_init__(self) -> None:
        shape = (len(self.weight), len(self.steps))
        for name in (*_LOGS, "labels", "observed", "true_reach", "true_transition", "true_potential"):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} should be {list(shape)}, received {list(value.shape)}")
        for name in ("labels", "observed"):
            if getattr(self, name).dtype != np.bool_:
                raise ValueError(f"{name} should be bool, received {getattr(self, name).dtype}")
        for name in ("weight", "user", "value", "expected_value", "log_mean_value"):
            value = getattr(self, name)
            if value is not None and value.shape != shape[:1]:
                raise ValueError(f"{name} should be [{shape[0]}], received {list(value.shape)}")
        for name in _LOGS:
            wrong = ~(getattr(self, name) <= 0)  # NaN is wrong as well
            if wrong.any():
                row, step = np.argwhere(wrong)[0]
                raise DataError(
                    f"{name} should be a log-probability <= 0, received {getattr(self, name)[row, step]} "
                    f"in row {row} at step '{self.steps[step]}'; a lower learning_rate may help"
                )

        if self.expected_value is not None and not np.isfinite(self.expected_value).all():
            row = int(np.argmin(np.isfinite(self.expected_value)))
            raise DataError(
                f"the expected value should be finite, received {self.expected_value[row]} in row {row} at step "
                f"'{self.steps[-1]}'; a lower learning_rate may help"
            )

    def __len__(self) -> int:
        return len(self.weight)

    def take(self, rows: Array) -> Scores:
        """Pick rows.

        Args:
            rows: [n] row numbers, or [N] bool.
        """
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        del columns["steps"]
        return replace(self, **{name: column[rows] for name, column in columns.items() if column is not None})

    def rows_of(self, step: int, space: Space) -> Array:
        """Mark the rows on which a step is measured.

        Reach: all rows with a known label. Transition: of these, the rows whose former step is known to have
        happened (step 0 happened on every row), in a graph those that are known to lie in the step's scope.

        Args:
            step: number of the step, from 0.
            space: `reach` or `transition`.

        Returns:
            [N] bool.
        """
        rows: Array = self.observed[:, step]
        if space == "transition" and self.scope is not None:
            return rows & self.scope[:, step]
        if space == "transition" and step > 0:
            rows = rows & self.observed[:, step - 1] & self.labels[:, step - 1]
        return rows


def as_json(values: Mapping[str, Value]) -> dict[str, float | str | None]:
    """Write an undefined value as null, with the reason in a key beside it.

    Args:
        values: by name.

    Example:
        >>> as_json({"auc": Undefined("no rows")})
        {'auc': None, 'auc_reason': 'no rows'}
    """
    record: dict[str, float | str | None] = {}
    for name, value in values.items():
        if isinstance(value, Undefined):
            record |= {name: None, f"{name}_reason": value.reason}
        else:
            record[name] = value
    return record


def _space_metrics(scores: Scores, step: int, space: Space) -> dict[str, Any]:
    """Measure one step in one space."""
    rows = scores.rows_of(step, space)
    log_p, log_not_p = getattr(scores, f"log_{space}")[rows, step], getattr(scores, f"log_not_{space}")[rows, step]
    labels, weight = scores.labels[rows, step], scores.weight[rows]
    probability = np.exp(log_p, dtype=np.float64)
    values: dict[str, Value] = {
        "auc": metrics.auc(log_p, labels, weight),
        "logloss": metrics.logloss(log_p, log_not_p, labels, weight),
        "ne": metrics.normalised_entropy(log_p, log_not_p, labels, weight),
        "pcoc": metrics.pcoc(probability, labels, weight),
        "ece": metrics.ece(probability, labels, weight),
        "brier": metrics.brier(probability, labels, weight),
    }
    if scores.user is None:
        values["gauc"] = Undefined("the data have no user column")
    else:
        grouped = gauc(log_p, labels, scores.user[rows], weight)
        values |= {"gauc": grouped.value, "gauc_covered": grouped.covered, "gauc_users": grouped.users}
    record: dict[str, Any] = {"rows": len(labels), "positives": int(np.count_nonzero(labels)), **as_json(values)}
    # Over all rows, also those outside the local space, of which only truth can tell.
    truths = {"error": getattr(scores, f"true_{space}")}
    if space == "transition":
        truths["potential_error"] = scores.true_potential
    for key, truth in truths.items():
        if truth is not None:
            predicted = np.exp(getattr(scores, f"log_{space}")[:, step], dtype=np.float64)
            record[key] = as_json(metrics.error_to_truth(predicted, truth[:, step], scores.weight))
    return record


def _rising_share(scores: Scores, step: int) -> Value:
    """Share of all rows whose reach exceeds that of the former step, which no true funnel does."""
    if step == 0:
        return Undefined("the first step has no former step")
    if scores.scope is not None:
        return Undefined("the steps form a graph, whose composition cannot rise")
    if not scores.weight.any():
        return Undefined("no rows")
    rising = scores.log_reach[:, step] > scores.log_reach[:, step - 1]
    return float(np.dot(rising, scores.weight.astype(np.float64)) / scores.weight.sum(dtype=np.float64))


def funnel_metrics(scores: Scores) -> list[dict[str, Any]]:
    """Measure every step in the entire space (reach) and in the local space (transition).

    Args:
        scores: predictions and labels of a split.

    Returns:
        One record a step: `name`, `rows` and `positives` with a known label, `reach` and `transition`. Each of the
        two holds `rows`, `positives`, `auc`, `logloss`, `ne`, `pcoc`, `ece`, `brier`, `gauc` and, when the truth is
        known, `error` over all rows; reach also `rising_share`, and transition `potential_error`, its error to the
        potential rate, where that is known. The last step also has `value` (see `value_metrics`) where it has a value.
        An undefined value is None, with its reason under `<name>_reason`.
    """
    records = []
    for step, name in enumerate(scores.steps):
        reach = _space_metrics(scores, step, "reach")
        reach |= as_json({"rising_share": _rising_share(scores, step)})
        records.append(
            {
                "name": name,
                "rows": reach["rows"],
                "positives": reach["positives"],
                "reach": reach,
                "transition": _space_metrics(scores, step, "transition"),
            }
        )
    if scores.value is not None and scores.expected_value is not None and scores.log_mean_value is not None:
        rows = scores.observed[:, -1]
        measured = value_metrics(
            scores.value[rows], scores.expected_value[rows], scores.log_mean_value[rows], scores.weight[rows]
        )
        deciles = value_deciles(scores.value[rows], scores.expected_value[rows], scores.weight[rows])
        records[-1]["value"] = {**as_json(measured), "deciles": deciles}
    return records


def _space_curves(scores: Scores, step: int, space: Space) -> dict[str, Any]:
    """Trace the curves of one step in one space over the rows of weight > 0."""
    rows = scores.rows_of(step, space) & (scores.weight > 0)
    log_p, labels, weight = getattr(scores, f"log_{space}")[rows, step], scores.labels[rows, step], scores.weight[rows]
    if not len(labels):
        return {
            name: value
            for key in ("roc", "pr", "reliability", "histogram")
            for name, value in as_json({key: Undefined("no rows")}).items()
        }
    probability = np.exp(log_p, dtype=np.float64)
    reason = metrics.one_class(labels)
    return {
        **(
            {"roc": None, "roc_reason": reason, "pr": None, "pr_reason": reason}
            if reason
            else {
                "roc": roc_points(log_p, labels, weight),
                "pr": precision_recall_points(log_p, labels, weight),
            }
        ),
        "reliability": reliability(probability, labels, weight),
        "histogram": score_histogram(probability, labels),
    }


def funnel_curves(scores: Scores) -> dict[str, Any]:
    """Trace ROC, precision-recall, reliability and score histogram of every step in both spaces.

    Args:
        scores: predictions and labels of a split.

    Returns:
        `{"format": 1, "steps": [{"name", "reach": {...}, "transition": {...}}]}` with `roc`, `pr`, `reliability`
        and `histogram` as in `funnelcast.curves`; an undefined curve is None, with its reason under `<name>_reason`.
    """
    steps = [
        {"name": name, **{space: _space_curves(scores, step, space) for space in SPACES}}
        for step, name in enumerate(scores.steps)
    ]
    return {"format": 1, "steps": steps}
