"""The section of a step: ROC, precision-recall and reliability, and the tables of its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from funnelcast.report.calibration import calibration_group
from funnelcast.report.elements import Group, Panel, Record, Section, Table, percent
from funnelcast.report.figures import Line, pr_figure, reliability_figure, roc_figure
from funnelcast.report.source import Source
from funnelcast.tables import metric_column

__all__ = ["step_section"]

SPACE_NAMES = {"reach": "entire space", "transition": "local space"}
_METRICS = {
    "ne": ("normalised entropy", 4),
    "pcoc": ("PCOC", 3),
    "ece": ("ECE", 6),
    "logloss": ("log-loss", 6),
    "brier": ("Brier", 6),
    "gauc": ("GAUC", 4),
    "rising_share": ("rising share", 4),
}
_ERRORS = {
    "explained_variance": ("explained variance", 4),
    "rmse": ("RMSE", 6),
    "mean_absolute_error": ("mean absolute error", 6),
    "bias": ("bias", 6),
}
_ALARMS = (0.01, 0.05, 0.1, 0.2, 0.5)  # false positive rates of the table behind a ROC figure
_RECALLS = (0.05, 0.1, 0.25, 0.5, 0.75)  # recalls of the table behind a precision-recall figure
_BARS = 3  # with more experiments than this, their intervals would hide each other


def step_section(source: Source, step: int) -> Section:
    """Show everything about one step.

    Args:
        source: what the page is about.
        step: number of the step, from 0.
    """
    found, groups = source.board["funnel"][step], []
    # The first step's local space is the entire space.
    for space in ("reach", "transition")[: 1 if step == 0 else 2]:
        rows, positives = (
            (found["rows"], found["positives"]) if space == "reach" else (found["local_rows"], found["local_positives"])
        )
        title = "Reach: all rows" if space == "reach" else "Transition: rows on which the former step happened"
        groups.append(
            Group(
                title,
                f"{positives:,} positives of {rows:,} rows. {_which(source)}",
                source.legend,
                (
                    _roc_panel(source, step, space),
                    _pr_panel(source, step, space, positives / rows if rows else None),
                    _reliability_panel(source, step, space),
                ),
                tuple(_tables(source, step, space)),
            )
        )
    calibrated = calibration_group(source, step)
    groups += [calibrated] if calibrated is not None else []
    return Section(f"step-{step + 1}", f"Step {step + 1}: {found['name']}", f"Step {step + 1}", groups=tuple(groups))


def _which(source: Source) -> str:
    """Say which runs the figures show."""
    if source.single:
        return ""
    seeds = ", ".join(map(str, sorted({run.report["seed"] for run in source.first})))
    words = f"Figures show the first seed ({seeds}) of each experiment; the tables of metrics are over all seeds."
    if (shown := len(source.drawn)) < (known := len(source.first)):
        baseline = "" if source.board["baseline"] is None else " and the baseline"
        words += f" Of {known} experiments the figures show {shown}, the best{baseline}; all stand in the tables."
    return words


def _roc_panel(source: Source, step: int, space: str) -> Panel:
    rows = []
    for run in source.first:
        roc = run.curves["steps"][step][space]["roc"]
        found = (
            ["undefined"] * len(_ALARMS)
            if roc is None
            else map(percent, np.interp(_ALARMS, roc["false_positive_rate"], roc["true_positive_rate"]))
        )
        rows.append([run.experiment, *found])
    curves = [(run, run.curves["steps"][step][space]["roc"]) for run in source.drawn]
    lines = [Line(run.series, c["false_positive_rate"], c["true_positive_rate"]) for run, c in curves if c is not None]
    name = f"step-{step + 1}-{space}-roc"
    return Panel(
        name,
        f"ROC, {SPACE_NAMES[space]}",
        roc_figure(name, lines) if lines else "",
        f"ROC curves of {len(lines)} experiments in the {SPACE_NAMES[space]}; the table below holds their heights.",
        "",
        Table.of_text(["experiment", *(f"found at {percent(rate)} false alarms" for rate in _ALARMS)], rows),
        source.legend,
    )


def _precision_at(curve: Record, recall: float) -> str:
    """Read the precision of the first threshold that reaches a recall."""
    return percent(curve["precision"][int(np.searchsorted(curve["recall"], recall))])


def _pr_panel(source: Source, step: int, space: str, base_rate: float | None) -> Panel:
    rows = []
    for run in source.first:
        curve = run.curves["steps"][step][space].get("pr")  # runs that were evaluated by older versions have none
        cells = ["undefined"] * (1 + len(_RECALLS))
        if curve is not None:
            cells = [f"{curve['average_precision']:.4f}", *(_precision_at(curve, recall) for recall in _RECALLS)]
        rows.append([run.experiment, *cells])
    curves = [(run, run.curves["steps"][step][space].get("pr")) for run in source.drawn]
    lines = [Line(run.series, c["recall"], c["precision"]) for run, c in curves if c is not None]
    name = f"step-{step + 1}-{space}-pr"
    return Panel(
        name,
        f"Precision and recall, {SPACE_NAMES[space]}",
        pr_figure(name, lines, base_rate) if lines else "",
        f"Precision over recall of {len(lines)} experiments in the {SPACE_NAMES[space]}; "
        "the level line is the base rate, the precision of a guess.",
        "The level line is the base rate.",
        Table.of_text(
            ["experiment", "average precision", *(f"precision at {percent(recall)} recall" for recall in _RECALLS)],
            rows,
        ),
        source.legend,
    )


def _reliability_panel(source: Source, step: int, space: str) -> Panel:
    lines, bars, rows = [], [], []
    for run in source.drawn:
        bins = run.curves["steps"][step][space]["reliability"] or []
        if bins:
            lines.append(Line(run.series, [b["predicted"] for b in bins], [b["observed"] for b in bins]))
            bars.append([(b["low"], b["high"]) for b in bins] if len(source.drawn) <= _BARS else [])
        for b in bins:
            interval = f"{percent(b['low'])} to {percent(b['high'])}"
            rows.append([run.experiment, percent(b["predicted"]), percent(b["observed"]), interval, f"{b['rows']:,}"])
    empty = any(height == 0 for line in lines for height in line.y)
    name = f"step-{step + 1}-{space}-reliability"
    return Panel(
        name,
        f"Reliability, {SPACE_NAMES[space]}",
        reliability_figure(name, lines, bars) if lines else "",
        f"Observed rate over mean prediction of {len(lines)} experiments in bins of equal mass, "
        f"{SPACE_NAMES[space]}; calibrated predictions lie on the diagonal.",
        ("Bars are 95 % intervals." if any(bars) else "The table holds 95 % intervals.")
        + (" On logarithmic axes, bins without a positive stand in the table only." if empty else ""),
        Table.of_text(["experiment", "mean prediction", "observed rate", "95 % interval", "rows"], rows),
        source.legend,
    )


def _summaries(rows: Sequence[Record], step: int, space: str, metric: str) -> list[Record]:
    """One summary over seeds a row; a metric that the row lacks is undefined."""
    nothing = {"mean": None, "std": None}
    spaces = [row["steps"][step][space] for row in rows]
    return [part.get(metric, part.get("error", {}).get(metric, nothing)) for part in spaces]


def _table(source: Source, step: int, space: str, metrics: Mapping[str, tuple[str, int]]) -> Table:
    rows, columns, notes = source.board["rows"], [], []
    for metric, (head, digits) in metrics.items():
        values = _summaries(rows, step, space, metric)
        if any(value["mean"] is not None for value in values):
            columns.append(metric_column(values, metric, head, digits))
        elif reason := source.first[0].report["steps"][step][space].get(f"{metric}_reason"):
            notes.append(f"{head} is undefined: {reason}.")
    return Table.of_columns(source.names, columns, tuple(notes))


def _tables(source: Source, step: int, space: str) -> list[Table]:
    """Tabulate calibration and entropy, and the error to the true probabilities where the truth is known."""
    shown: dict[str, Any] = {
        k: v for k, v in _METRICS.items() if k != "rising_share" or (space == "reach" and step > 0)
    }
    tables = [_table(source, step, space, shown)]
    if any("error" in row["steps"][step][space] for row in source.board["rows"]):
        errors = _table(source, step, space, _ERRORS)
        tables.append(
            Table(errors.heads, errors.rows, ("Error to the true probability of simulated data, over all rows.",))
        )
    return tables
