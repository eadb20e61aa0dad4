"""What an experiment says, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funnelcast.experiment.sample_ratio import MISMATCH_LEVEL
from funnelcast.report.elements import isolate

__all__ = ["decision_text", "gain", "p_text", "split_text", "verdict"]

Record = Mapping[str, Any]
_MANY = 0.01  # share of users seen in two variants, or of outcomes left out for a reason, that is worth a sentence


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
    level, p_value = (1 - record["alpha"]) * 100, f"{p_text(found['holm_p'])} after Holm"
    unlike = " No one lift lies in the intervals of all days: it changed over time, see the daily rates."
    changed = unlike if found["changed"] else ""
    if found["decision"] == "open":
        if found["interval"] is None:
            return f"Nothing can be said of {rival} yet: {found['reason']}."
        return f"No difference of {rival} from {base} is shown so far ({_within(found, level)}; {p_value}).{changed}"
    by = found if _stands(found) else found["decided_by"]
    lifted = f"{gain(by['value'])} ({_within(by, level)}; {p_value})"
    if by is found:
        return f"{rival} is {found['decision']} than {base}: {lifted}.{changed}"
    now = f"it is {gain(found['value'])} ({_within(found, level)})" if found["interval"] else found["reason"]
    doubt = changed or " If the lift is the same on all days, the decision stands; see the daily rates."
    return f"{rival} was {found['decision']} than {base} up to {by['date']}: {lifted}. Not so now: {now}.{doubt}"


def _within(look: Record, level: float) -> str:
    low, high = look["interval"]
    return f"always-valid {level:.4g} % interval {gain(low)} to {gain(high)}"


def decision_text(sequence: Record) -> str:
    """Write a decision for a table: with its day where the present interval does not stand on its side.

    Args:
        sequence: of a lift, as `ab.json` holds it.

    Example:
        >>> then = {"date": "2026-03-01", "value": 0.5, "interval": [0.3, 0.7]}
        >>> decision_text({"decision": "better", "decided_by": then, "interval": [-0.1, 0.2]})
        'better on 2026-03-01'
        >>> decision_text({"decision": "better", "decided_by": then, "interval": [0.1, 0.2]})
        'better'
    """
    by = sequence["decided_by"]
    return str(sequence["decision"]) if by is None or _stands(sequence) else f"{sequence['decision']} on {by['date']}"


def _stands(sequence: Record) -> bool:
    """Whether the present interval is on the side that was decided; the look that decided may be an earlier one."""
    if sequence["interval"] is None:
        return False
    low, high = sequence["interval"]
    return bool(low > 0 if sequence["decision"] == "better" else high < 0)


def _advice(record: Record) -> str:
    """Say what may be done; the sequences allow to stop at any time."""
    sequences = [lift["sequence"] for step in record["steps"] for lift in step["lifts"]]
    decided = [sequence for sequence in sequences if sequence["decision"] != "open"]
    if not decided:
        return "Nothing is decided; the test may go on for as long as is wanted, at the same chance of a false alarm."
    if any(sequence["changed"] or not _stands(sequence) for sequence in decided):
        number = "Every step is" if len(decided) == len(sequences) else "Some steps are"
        return f"{number} decided, but a lift does not look the same on all days; read the daily rates before acting."
    if len(decided) == len(sequences):
        return "Every step is decided; the test may be stopped."
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
    found += _lost(record)
    if not outcomes["kept"]:
        found.append("No outcome is left: check the time zones, the ids and the window.")
    return found


def _lost(record: Record) -> list[str]:
    """Say how many outcomes found no exposure, where it is many."""
    outcomes = record["counts"]["outcomes"]
    enough = _MANY * max(outcomes["rows"], 1)
    found = []
    if outcomes["without_key_or_time"] > enough:
        by_request = outcomes["joined_by"] == "request_id"
        timed = not by_request or record["window_hours"] is not None
        key, advice = (
            ("request_id", "; --join user goes by user and time, where they have both") if by_request else ("user", "")
        )
        found.append(
            f"Of {outcomes['rows']:,} outcomes {outcomes['without_key_or_time']:,} have no {key}"
            f"{' or no time' if timed else ''} and are left out{advice}."
        )
    if outcomes["without_exposure"] > enough:
        found.append(
            f"Of {outcomes['rows']:,} outcomes {outcomes['without_exposure']:,} are of users without an exposure in "
            "the analysis."
        )
    return found
