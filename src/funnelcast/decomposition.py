"""Which step loses the customer: log p_S as a sum over the steps, and what a better step would bring.

Shape legend: N rows, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ConfigError
from funnelcast.scores import Scores
from funnelcast.segments import Segmentation

__all__ = ["BEST_QUARTILE", "decompose", "decomposition"]

Array = NDArray[Any]
Record = dict[str, Any]
BEST_QUARTILE = 0.75  # the quantile of c_k at which the best quarter of a segment's rows begins
_SAME = 1e-3  # how far log p_S of a marginal head may be from the sum before a row counts as off


def decompose(log_transition: Array, weight: Array, steps: Sequence[str]) -> Record:
    """Split the loss of customers over the steps, and say what a step would bring if it were better.

    On a row log p_S = sum_k log c_k. Over the rows, with weights w:

    loss_k = sum w (-log c_k) / sum w,   share_k = loss_k / sum_j loss_j
    expected = 1000 sum w p_S / sum w                             conversions per 1,000 rows
    fixed_k = 1000 sum w p_S / c_k / sum w - expected              every row takes step k: c_k = 1
    raised_k = 1000 sum w p_S max(1, q_k / c_k) / sum w - expected  no row is below q_k, where the best quarter begins

    q_k is the lowest c_k such that the rows with c_k <= q_k hold three quarters of the weight or more. The shares add
    up to 1, and 0 <= raised_k <= fixed_k.

    Args:
        log_transition: [N, S] log c_k <= 0.
        weight: [N] >= 0, not all 0.
        steps: names of the steps in funnel order.

    Returns:
        `expected_per_1000` and a record a step: `name`, `loss`, `share` (None where every transition is certain),
        `mean_transition`, `best_quartile` q_k, `fixed_per_1000` and `raised_per_1000`, the conversions gained.

    Example:
        >>> record = decompose(np.log([[0.5, 0.25]]), np.ones(1), ["click", "buy"])
        >>> [round(step["share"], 4) for step in record["steps"]], round(record["expected_per_1000"], 9)
        ([0.3333, 0.6667], 125.0)
        >>> [round(step["fixed_per_1000"], 9) for step in record["steps"]]  # 1/4 and 1/2 instead of 1/8
        [125.0, 375.0]
    """
    kept = weight > 0
    log_c, w = log_transition[kept].astype(np.float64), weight[kept].astype(np.float64)  # [N, S], [N]
    w = w / w.sum()
    log_p = log_c.sum(axis=1)  # [N]
    reached = np.exp(log_p)
    expected = 1000 * float(w @ reached)
    losses = -(w @ log_c)  # [S]
    total = float(losses.sum())
    quartiles = [float(np.quantile(c, BEST_QUARTILE, weights=w, method="inverted_cdf")) for c in log_c.T]
    records = []
    for k, name in enumerate(steps):
        # The part that is gained, and not a difference of means, so that rounding cannot make it negative.
        fixed, raised = (
            1000 * float(w @ (reached * np.expm1(np.maximum(best - log_c[:, k], 0.0)))) for best in (0.0, quartiles[k])
        )
        records.append(
            {
                "name": name,
                "loss": float(losses[k]) + 0.0,
                "share": float(losses[k]) / total if total > 0 else None,
                "mean_transition": float(w @ np.exp(log_c[:, k])),
                "best_quartile": float(np.exp(quartiles[k])),
                "fixed_per_1000": fixed,
                "raised_per_1000": raised,
            }
        )
    return {"expected_per_1000": expected, "steps": records}


def _observed(scores: Scores) -> float | None:
    """Conversions that happened per 1,000 rows with a known last label."""
    known = scores.observed[:, -1]
    weight = scores.weight[known].astype(np.float64)
    return 1000 * float(weight @ scores.labels[known, -1]) / float(weight.sum()) if weight.any() else None


def _segment(scores: Scores, value: str) -> Record:
    head = {"value": value, "rows": len(scores), "observed_per_1000": _observed(scores)}
    if not scores.weight.any():
        return {**head, "expected_per_1000": None, "expected_per_1000_reason": "no rows of weight > 0", "steps": []}
    return {**head, **decompose(scores.log_transition, scores.weight, scores.steps)}


def decomposition(scores: Scores, segmentations: Sequence[Segmentation] = ()) -> Record:
    """Decompose all rows, and every segment of every column.

    The sum of log c_k is log p_S by construction, but for a model with one marginal head a step where p_i > p_{i-1}:
    there c_i is reported as 1 - 1e-4. `rows_off` is the share of rows where the two differ by more than 0.1 %.

    Args:
        scores: predictions and labels of a split, of a chain of steps.
        segmentations: one a column, of the same rows.

    Returns:
        `best_quartile`, `rows_off`, `overall` (see `decompose`; also `value`, `rows` and `observed_per_1000`, of the
        rows with a known last label) and `columns`: `column`, `kind`, `overlapping` and `segments`.

    Raises:
        ConfigError: the steps form a graph, whose last step is no product of transitions.
    """
    if scores.scope is not None:
        raise ConfigError("a decomposition should get a chain of steps, received a graph: its p_S is no product of c_k")
    gap = np.abs(scores.log_transition.sum(axis=1, dtype=np.float64) - scores.log_reach[:, -1])
    return {
        "best_quartile": BEST_QUARTILE,
        "rows_off": float((gap > _SAME).mean()),
        "overall": _segment(scores, "all rows"),
        "columns": [
            {
                "column": segmentation.column.word,
                "kind": segmentation.column.kind,
                "overlapping": segmentation.overlapping,
                "segments": [_segment(scores.take(part.rows), part.value) for part in segmentation.segments],
            }
            for segmentation in segmentations
        ],
    }
