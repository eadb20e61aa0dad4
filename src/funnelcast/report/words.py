"""What the numbers say, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["sampling_error", "verdict"]


def sampling_error(auc: float, positives: int) -> float:
    """Estimate the standard error of an AUC from the number of positives alone.

    SE = sqrt((A / (2 - A) - A^2) / n+), for many more negatives than positives.

    Args:
        auc: A in [0, 1].
        positives: n+ >= 1.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", with n- much larger than n+.

    Example:
        >>> round(sampling_error(0.65, 9195), 4)
        0.0025
    """
    return math.sqrt(max(auc / (2 - auc) - auc * auc, 0.0) / positives)


def verdict(leaderboard: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say for every step which experiment leads and how far that can be trusted.

    Args:
        leaderboard: from `build_leaderboard`.

    Returns:
        (name of the step, one to three sentences) for every step.
    """
    return [(step["name"], _of_step(leaderboard, i)) for i, step in enumerate(leaderboard["funnel"])]


def _of_step(leaderboard: Mapping[str, Any], step: int) -> str:
    rows = [row for row in leaderboard["rows"] if row["steps"][step]["reach"]["auc"]["mean"] is not None]
    if not rows:
        return "Reach AUC is undefined in every run: one of the two classes is missing."
    rows = sorted(rows, key=lambda row: -float(row["steps"][step]["reach"]["auc"]["mean"]))
    first = rows[0]["steps"][step]["reach"]["auc"]
    head = f"{rows[0]['experiment']} has a mean reach AUC of {first['mean']:.4f}"
    positives = leaderboard["funnel"][step]["positives"]
    error = sampling_error(first["mean"], positives)
    caution = (
        f" With {positives:,} positives, one AUC on this split is known to about ±{error:.4f} (one standard error)."
    )
    if len(rows) == 1:
        return f"{head}; there is no other experiment to compare it with.{caution}"
    second = rows[1]["steps"][step]["reach"]["auc"]
    lead = first["mean"] - second["mean"]
    if round(lead, 4) == 0:
        return f"{head} and is level with {rows[1]['experiment']}.{caution}"
    lead_text = f"{head}, {lead:.4f} ahead of {rows[1]['experiment']}"
    spreads = [value["std"] for value in (first, second) if value["std"] is not None]
    if not spreads:
        judged = "With one seed each, the spread over seeds is not known."
    elif lead > max(spreads):
        judged = f"The lead exceeds the spread over seeds (standard deviation {max(spreads):.4f})."
    else:
        judged = (
            f"The lead is within the spread over seeds (standard deviation {max(spreads):.4f}), "
            "so other seeds may turn the order."
        )
    return f"{lead_text}. {judged}{caution if error > lead else ''}"
