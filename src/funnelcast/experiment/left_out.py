"""What an analysis read, left out and kept, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["left_out"]

Record = Mapping[str, Any]
_REASONS = {
    "exposures": {
        "without_user": "without user",
        "without_variant": "without variant",
        "without_time": "without time",
        "unknown_variant": "of unknown variants",
        "repeated": "repeated",
    },
    "outcomes": {
        "other_experiment": "of another experiment",
        "without_key_or_time": "without user, request or time",
        "repeated": "repeated",
        "without_exposure": "of users or requests without an exposure in the analysis",
        "before_exposure": "before the first exposure",
        "late": "after the window",
    },
}


def left_out(record: Record) -> list[tuple[str, str, int]]:
    """List what was read, left out and kept: (log, what became of the rows, rows).

    Args:
        record: from `analyse` or `watch`.
    """
    found = []
    for log, reasons in _REASONS.items():
        if log not in record["counts"]:
            continue
        counts = record["counts"][log]
        found += [(log, words, counts[key]) for key, words in {"rows": "read", **reasons, "kept": "kept"}.items()]
    exposures = record["counts"]["exposures"]
    if "users_before" in exposures:
        found.append(("users", "first seen too early, left out", exposures["users_before"]))
    found.append(("users", "seen", exposures["users_seen"]))
    fate = "dropped" if record["crossed"] == "drop" else "counted for the first"
    found.append(("users", f"in several variants, {fate}", exposures["users_crossed"]))
    covariates = record["counts"].get("covariates")
    if covariates is not None:
        found.append(("users", f"without {covariates['column']}", covariates["users_without"]))
    return found
