"""Leaderboard: the reports of experiments x seeds -> one record.

A row's `steps[i]["reach"]["ne"]` summarises a metric over the seeds: `{"mean", "std", "values", "undefined",
"interval"}`, the interval being that of the mean over seeds. The interval of an AUC is that over other rows, and beside
it stands a `test` against the best other experiment.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from funnelcast.csv_table import to_csv
from funnelcast.errors import DataError, choices
from funnelcast.evidence import SharedRows, add_evidence
from funnelcast.metrics import HIGHER_IS_BETTER, IDEAL
from funnelcast.significance.paired import seed_interval
from funnelcast.tables import ERRORS, to_json, to_markdown
from funnelcast.terminal import error_table, to_rich_table

__all__ = [
    "BASELINE_MODEL",
    "build_leaderboard",
    "error_table",
    "summary",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_rich_table",
]

Report = Mapping[str, Any]
BASELINE_MODEL = "single_task"
_ALL_METRICS = {*HIGHER_IS_BETTER, *IDEAL}
_SPEEDS = ("train_rows_per_second", "score_rows_per_second", "train_seconds")


def summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Summarise a metric over seeds: mean, sample standard deviation (n - 1) and 95 % t-interval of the defined values.

    Args:
        values: one value a seed; None where it is undefined.

    Returns:
        `mean` (None without a defined value), `std` and `interval` of the mean (None with fewer than two), `values` as
        given, `undefined`: how many are None.

    Example:
        >>> summary([1.0, None, 3.0])["mean"], summary([1.0, None])["std"]
        (2.0, None)
    """
    defined = [value for value in values if value is not None]
    interval = seed_interval(defined)
    return {
        "mean": statistics.fmean(defined) if defined else None,
        "std": statistics.stdev(defined) if len(defined) > 1 else None,
        "values": list(values),
        "undefined": len(values) - len(defined),
        "interval": None if interval is None else list(interval),
    }


def _check(reports: Sequence[Report]) -> None:
    """Refuse reports that cannot stand in one table."""
    if not reports:
        raise DataError("a leaderboard needs at least one report, received none")
    first = reports[0]
    seen: set[tuple[str, int]] = set()
    models: dict[str, str] = {}
    for report in reports:
        run = f"experiment '{report['experiment']}' seed {report['seed']}"
        for key in ("dataset", "split", "rows"):
            if report[key] != first[key]:
                raise DataError(f"{run}: {key} should be {first[key]!r} as in the others, received {report[key]!r}")
        if _rows_of_steps(report) != _rows_of_steps(first):
            raise DataError(
                f"{run}: steps with their rows and positives should be {_rows_of_steps(first)}, "
                f"received {_rows_of_steps(report)}"
            )
        if (report["experiment"], report["seed"]) in seen:
            raise DataError(f"{run}: each seed of an experiment should come once, received it twice")
        seen.add((report["experiment"], report["seed"]))
        model = models.setdefault(report["experiment"], report["model"])
        if model != report["model"]:
            raise DataError(f"{run}: model should be '{model}' as in its other runs, received '{report['model']}'")


def _rows_of_steps(report: Report) -> list[tuple[str, int, int]]:
    return [(step["name"], step["rows"], step["positives"]) for step in report["steps"]]


def _space(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the metrics of one step in one space over the runs of an experiment."""
    known = [name for name in parts[0] if name in _ALL_METRICS]
    record: dict[str, Any] = {name: summary([part[name] for part in parts]) for name in known}
    for key in ERRORS:
        if all(key in part for part in parts):
            record[key] = _space([part[key] for part in parts])
    return record


def _row(runs: Sequence[Report]) -> dict[str, Any]:
    """Summarise the runs of one experiment."""
    steps = []
    for i, step in enumerate(runs[0]["steps"]):
        spaces = {space: _space([run["steps"][i][space] for run in runs]) for space in ("reach", "transition")}
        steps.append({"name": step["name"], **spaces})
    return {
        "experiment": runs[0]["experiment"],
        "model": runs[0]["model"],
        "parameters": runs[0]["parameters"],
        **{key: statistics.fmean([run[key] for run in runs]) for key in _SPEEDS},
        "runs": len(runs),
        "seeds": [run["seed"] for run in runs],
        "steps": steps,
    }


def _add_gains(rows: Sequence[dict[str, Any]], baseline: dict[str, Any] | None) -> None:
    """Add `auc_gain` to every step and space: (mean AUC / mean AUC of the baseline - 1) * 100, or None."""
    for row in rows:
        for i, step in enumerate(row["steps"]):
            for space in ("reach", "transition"):
                own = step[space]["auc"]["mean"]
                base = baseline["steps"][i][space]["auc"]["mean"] if baseline else None
                step[space]["auc_gain"] = (own / base - 1) * 100 if own is not None and base else None


def build_leaderboard(
    reports: Sequence[Report], shared: SharedRows | None = None, *, baseline: str | None = None
) -> dict[str, Any]:
    """Build the leaderboard from the reports of all runs.

    Gain = (AUC / AUC of the baseline - 1) * 100 %, both means over seeds.

    Args:
        reports: contents of `report.json`; experiments keep the order in which they first come, seeds are sorted.
        shared: the rows that all runs were scored on; without them AUC have no interval and the only tests are those
            over seeds.
        baseline: the experiment that gains refer to; by default the first one whose model is `single_task`, if any.

    Returns:
        `{"format": 1, "dataset", "split", "row_count", "seeds", "baseline", "funnel", "rows", "power", "statistics"}`.

    Raises:
        DataError: no reports; or reports of different datasets, splits or steps; or a seed twice; or no
            report is of the baseline.

    Source: APEM paper, section 4.2, Table 3 (gain).
    """
    _check(reports)
    experiments = list(dict.fromkeys(report["experiment"] for report in reports))
    ordered = sorted(reports, key=lambda report: report["seed"])
    rows = [_row([report for report in ordered if report["experiment"] == name]) for name in experiments]
    key, name = ("model", BASELINE_MODEL) if baseline is None else ("experiment", baseline)
    base = next((row for row in rows if row[key] == name), None)
    if base is None and baseline is not None:
        raise DataError(
            f"baseline should be an experiment of the table, received '{baseline}'; {choices(experiments, baseline)}"
        )
    _add_gains(rows, base)
    evidence = add_evidence(rows, shared)
    first = reports[0]
    return {
        "format": 1,
        "dataset": first["dataset"],
        "split": first["split"],
        "row_count": first["rows"],
        "seeds": sorted({report["seed"] for report in reports}),
        "baseline": base["experiment"] if base else None,
        "funnel": [
            {
                "name": step["name"],
                "rows": step["rows"],
                "positives": step["positives"],
                "local_rows": step["transition"]["rows"],
                "local_positives": step["transition"]["positives"],
            }
            for step in first["steps"]
        ],
        "rows": rows,
        **evidence,
    }
