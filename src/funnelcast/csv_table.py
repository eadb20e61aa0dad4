"""The leaderboard as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from funnelcast.tables import ERRORS

__all__ = ["to_csv"]

Record = Mapping[str, Any]
SPEEDS = ("train_rows_per_second", "score_rows_per_second", "train_seconds")
_P_VALUES = ("t_p", "wilcoxon_p", "delong_p", "combined_p", "holm_p")
_TEST_KEYS = ("against", "difference", *_P_VALUES, "paper_mark", "holm_mark")


def _flat(row: Record) -> Iterator[tuple[str, Any]]:
    """Walk over a row as (CSV column, value)."""
    for key in ("experiment", "model", "runs", "parameters", *SPEEDS):
        yield key, row[key]
    for step in row["steps"]:
        for space in ("reach", "transition"):
            metrics = {**step[space], **step[space].get("error", {})}
            named = [(f"{space} {name}", value) for name, value in metrics.items() if name not in ERRORS]
            named += [(f"potential {name}", value) for name, value in step[space].get("potential_error", {}).items()]
            for name, value in named:
                head = f"{step['name']} {name}"
                if name.endswith(" auc_gain"):
                    yield head, value
                    continue
                yield from ((f"{head} {part}", value[part]) for part in ("mean", "std", "undefined"))
                low, high = value.get("interval") or (None, None)
                yield from ((f"{head} low", low), (f"{head} high", high))
                if "test" in value:
                    test = value["test"] or {}
                    yield from ((f"{head} {key}", test.get(key)) for key in _TEST_KEYS)


def to_csv(leaderboard: Record) -> str:
    """Write the leaderboard as CSV: one line an experiment, every metric with mean, std, interval and undefined runs.

    An AUC also has its test against the best other experiment, and the smallest difference that its rows can show.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    seen = {
        f"{entry['step']} {entry['space']} auc smallest_difference": entry["smallest_difference"]
        for entry in leaderboard["power"]
    }
    heads = list(dict.fromkeys(head for row in leaderboard["rows"] for head, _ in _flat(row)))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*heads, *seen], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**dict(_flat(row)), **seen} for row in leaderboard["rows"])
    return text.getvalue()
