"""What an experiment says, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funnelcast.experiment.sample_ratio import MISMATCH_LEVEL
from funnelcast.report.elements import isolate

__all__ = ["gain", "p_text", "split_text", "verdict"]

Record = Mapping[str, Any]
_MANY = 0.01  # share of users seen in two variants, or of outcomes without an exposure, that is worth a sentence


def gain(value: float | None, sign: str = "+") -> str:
    """Write a relative lift in percent.

    Args:
        value: the lift, or None.
        sign: `+` writes the sign of positive numbers as well.

    Example:
        >>> gain(0.0123), gain(None)
        ('+1.23 %', 'undefined')
    """
    return "undefined" if value is None else f"{value * 100:{sign}.2f} %"


def p_text(p_value: float | None) -> str:
    """Write a p-value.

    Args:
        p_value: in [0, 1], or None.

    Example:
        >>> p_text(0.00001), p_text(0.0213)
        ('p < 0.0001', 'p = 0.0213')
    """
    if p_value is None:
        return "p undefined"
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.4f}"


def verdict(record: Record) -> dict[str, Any]:
    """Say what was decided and what was not; a broken split turns every decision off.

    Args:
        record: from `build_analysis`.

    Returns:
        `valid`, whether decisions may be read at all, and `sentences`, each with what it is `about` and its `text`.
    """
    assignment = record["assignment"]
    pairs = [("split", split_text(record))]
    if not assignment["mismatch"]:
        pairs += [(step["name"], _of_lift(record, lift)) for step in record["steps"] for lift in step["lifts"]]
        pairs.append(("what now", _advice(record)))
    pairs += [("mind", sentence) for sentence in _warnings(record)]
    return {
        "valid": not assignment["mismatch"],
        "sentences": [{"about": about, "text": text} for about, text in pairs],
    }


def split_text(record: Record) -> str:
    """Say whether users are split as planned.

    Args:
        record: with `variants` and `assignment`.
    """
    assignment = record["assignment"]
    names = [isolate(entry["variant"]) for entry in record["variants"]]
    users = ", ".join(f"{name} {count:,}" for name, count in zip(names, assignment["users"], strict=True))
    if not assignment["mismatch"]:
        return f"Users are split as planned ({users}; {p_text(assignment['p_value'])})."
    planned = ", ".join(f"{share:.4g}" for share in assignment["shares"])
    return (
        f"No verdict: users are not split as planned ({users}; planned {planned}; "
        f"{p_text(assignment['p_value'])}). The assignment or the logging is broken; find the cause before reading "
        "any difference below."
    )


def _of_lift(record: Record, lift: Record) -> str:
    """Say what is known of one step and rival."""
    found, rival, base = lift["sequence"], isolate(lift["variant"]), isolate(record["base"])
    if found["interval"] is None:
        return f"Nothing can be said of {rival} yet: {found['reason']}."
    low, high = (gain(bound) for bound in found["interval"])
    within = f"always-valid {(1 - record['alpha']) * 100:.4g} % interval {low} to {high}"
    if found["decision"] == "open":
        return f"No difference of {rival} from {base} is shown so far ({within}; {p_text(found['holm_p'])} after Holm)."
    return (
        f"{rival} is {found['decision']} than {base}: {gain(found['value'])} "
        f"({within}; {p_text(found['holm_p'])} after Holm)."
    )


def _advice(record: Record) -> str:
    """Say what may be done; the sequences allow to stop at any time."""
    decisions = [lift["sequence"]["decision"] for step in record["steps"] for lift in step["lifts"]]
    if "open" not in decisions:
        return "Every step is decided; the test may be stopped."
    if set(decisions) == {"open"}:
        return "Nothing is decided; the test may go on for as long as is wanted, at the same chance of a false alarm."
    return "Some steps are decided and stay so; the test may be stopped, or go on for the others."


def _warnings(record: Record) -> list[str]:
    """Say what was left out where it is much, and where exposures are no fair unit."""
    exposures, outcomes = record["counts"]["exposures"], record["counts"]["outcomes"]
    found = []
    for entry in record["variants"][1:]:
        lift = entry["exposures_lift"]
        if record["per"] == "exposure" and lift["p_value"] is not None and lift["p_value"] < MISMATCH_LEVEL:
            found.append(
                f"Users of {isolate(entry['variant'])} have {gain(lift['value'])} exposures "
                f"({p_text(lift['p_value'])}): "
                "rates per exposure do not show what a user brings; see rates per user."
            )
    if exposures["users_crossed"] > _MANY * exposures["users_seen"]:
        what = "were dropped" if record["crossed"] == "drop" else "count for their first one"
        found.append(
            f"Of {exposures['users_seen']:,} users {exposures['users_crossed']:,} saw several variants and {what}."
        )
    if exposures["unknown_variant"]:
        names = ", ".join(map(isolate, exposures["unknown_variants"]))
        found.append(f"{exposures['unknown_variant']:,} exposures are of variants that are not in the plan: {names}.")
    unmatched = outcomes["without_exposure"]
    if unmatched > _MANY * max(outcomes["rows"], 1):
        found.append(
            f"Of {outcomes['rows']:,} outcomes {unmatched:,} are of users without an exposure in the analysis."
        )
    if not outcomes["kept"]:
        found.append("No outcome is left: check the time zones, the ids and the window.")
    return found
