"""What the numbers say, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from funnelcast.report.elements import Record, isolate

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


def verdict(leaderboard: Record, calibrations: Mapping[str, Record] | None = None) -> list[tuple[str, str]]:
    """Say for every step which experiment leads, how far that can be trusted, and whether its rates are right.

    Args:
        leaderboard: from `build_leaderboard`; intervals, tests and power are read where they are.
        calibrations: experiment -> `calibration.json`, for those that have one.

    Returns:
        (name of the step, some sentences) for every step.
    """
    return [
        (step["name"], _of_step(leaderboard, i, calibrations or {})) for i, step in enumerate(leaderboard["funnel"])
    ]


def _of_step(leaderboard: Record, step: int, calibrations: Mapping[str, Record]) -> str:
    rows = [row for row in leaderboard["rows"] if row["steps"][step]["reach"]["auc"]["mean"] is not None]
    if not rows:
        return "Reach AUC is undefined in every run: one of the two classes is missing."
    rows = sorted(rows, key=lambda row: -float(row["steps"][step]["reach"]["auc"]["mean"]))
    sentences = [
        _lead(rows, step),
        _significance(leaderboard, rows, step),
        _certainty(leaderboard, rows, step),
        _calibration(rows[0], step, calibrations.get(rows[0]["experiment"])),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _lead(rows: Sequence[Record], step: int) -> str:
    """Say who leads, and whether the lead is larger than the spread over seeds."""
    first = rows[0]["steps"][step]["reach"]["auc"]
    interval = first.get("interval")
    within = f" (interval {interval[0]:.4f} to {interval[1]:.4f})" if interval is not None else ""
    head = f"{isolate(rows[0]['experiment'])} has a mean reach AUC of {first['mean']:.4f}{within}"
    if len(rows) == 1:
        return f"{head}; there is no other experiment to compare it with."
    second, other = rows[1]["steps"][step]["reach"]["auc"], isolate(rows[1]["experiment"])
    lead = first["mean"] - second["mean"]
    if round(lead, 4) == 0:
        return f"{head} and is level with {other}."
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
    return f"{head}, {lead:.4f} ahead of {other}. {judged}"


def _p_value(test: Record) -> tuple[float, str] | None:
    """Choose the p-value to quote: the corrected one where there is one."""
    names = {"holm": " after Holm's correction", "delong": " (DeLong)", "t": " (t-test over seeds)"}
    found = [(test[f"{key}_p"], words) for key, words in names.items() if test.get(f"{key}_p") is not None]
    return found[0] if found else None


def _significance(leaderboard: Record, rows: Sequence[Record], step: int) -> str:
    """Say what the tests say about the leader: its own one, or those of the others against it."""
    alpha = leaderboard.get("statistics", {}).get("alpha", 0.05)
    leader = rows[0]["experiment"]
    test = rows[0]["steps"][step]["reach"]["auc"].get("test")
    if test is not None and (quoted := _p_value(test)) is not None:
        value, words = quoted
        bounds = test.get("interval")
        interval = f", interval {bounds[0]:+.4f} to {bounds[1]:+.4f}" if bounds is not None else ""
        judged = "significant" if value < alpha else "not significant"
        small = "p < 0.0001" if value < 1e-4 else f"p = {value:.4f}"
        return (
            f"Against {isolate(test['against'])} the difference is {test['difference']:+.4f}{interval}; "
            f"{small}{words}: {judged} at {alpha:g}."
        )
    tests = [row["steps"][step]["reach"]["auc"].get("test") for row in rows[1:]]
    values = [_p_value(test) for test in tests if test is not None and test.get("against") == leader]
    known = [value for value, _ in filter(None, values)]
    if not known:
        return ""
    differ = sum(value < alpha for value in known)
    return f"Of {len(known)} tests against it, {differ} find a difference that is significant at {alpha:g}."


def _certainty(leaderboard: Record, rows: Sequence[Record], step: int) -> str:
    """Say what the positives of the split can show: the power analysis, or a rough error where a lead is smaller."""
    name, positives = leaderboard["funnel"][step]["name"], leaderboard["funnel"][step]["positives"]
    for power in leaderboard.get("power") or ():
        if (power["step"], power["space"]) == (name, "reach"):
            sentence = str(power["sentence"])
            return f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."
    means = [row["steps"][step]["reach"]["auc"]["mean"] for row in rows[:2]]
    error = sampling_error(means[0], positives)
    if len(means) == 2 and round(means[0] - means[1], 4) > 0 and error <= means[0] - means[1]:
        return ""
    return f"With {positives:,} positives, one AUC on this split is known to about ±{error:.4f} (one standard error)."


def _calibration(row: Record, step: int, fit: Record | None) -> str:
    """Say whether the leader predicts as many events as happen."""
    pcoc = row["steps"][step]["reach"].get("pcoc", {}).get("mean")
    words = ""
    if pcoc is not None:
        off = abs(pcoc - 1) * 100
        side = "more" if pcoc > 1 else "fewer"
        words = "It predicts as many events as happen" if off < 0.5 else f"It predicts {off:.1f} % {side} events than"
        words += f" (PCOC {pcoc:.3f})." if off < 0.5 else f" happen (PCOC {pcoc:.3f})."
    if fit is None:
        return words
    before, after = (fit["steps"][step][when]["reach"]["ece"] for when in ("before", "after"))
    if before is None or after is None:
        return words
    return f"{words} Calibration ({fit['method']}) takes its ECE from {before:.6f} to {after:.6f}.".strip()
