"""What the page shows: figures with their words and the tables behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from funnelcast.report.figures import Line, loss_figure, ne_figure, reliability_figure, roc_figure
from funnelcast.tables import Column, metric_column

__all__ = ["Panel", "Run", "Table", "curve_panels", "error_table", "metric_table", "training_panels"]

Record = Mapping[str, Any]
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


@dataclass(frozen=True)
class Run:
    """The files of one run.

    Args:
        series: number of its experiment.
        experiment: name of its experiment.
        report: `report.json`.
        curves: `curves.json`.
        history: `history.json`.
    """

    series: int
    experiment: str
    report: Record
    curves: Record
    history: Record


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        heads: titles of the columns.
        rows: cells as (text, whether it is the best of its column).
        notes: sentences below it.
    """

    heads: list[str]
    rows: list[list[tuple[str, bool]]]
    notes: tuple[str, ...] = ()

    @classmethod
    def of_columns(cls, names: Sequence[str], columns: Sequence[Column], notes: tuple[str, ...] = ()) -> Table:
        """Put columns beside the names of experiments.

        Args:
            names: one a row.
            columns: one cell a row each.
            notes: sentences below it.
        """
        rows = [
            [(name, False), *((column.texts[i], i in column.best) for column in columns)]
            for i, name in enumerate(names)
        ]
        return cls(["experiment", *(column.head for column in columns)], rows, notes)

    @classmethod
    def of_text(cls, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        """Make a table without marks.

        Args:
            heads: titles of the columns.
            rows: cells.
        """
        return cls(list(heads), [[(text, False) for text in row] for row in rows])


@dataclass(frozen=True)
class Panel:
    """A figure.

    Args:
        title: what it shows.
        svg: an SVG element, or empty when there is nothing to draw.
        alt: the figure in a sentence.
        note: what a reader should know.
        table: the numbers behind it.
    """

    title: str
    svg: str
    alt: str
    note: str
    table: Table


def _summaries(rows: Sequence[Record], step: int, space: str, metric: str) -> list[Record]:
    """One summary over seeds a row; a metric that the row lacks is undefined."""
    nothing = {"mean": None, "std": None}
    spaces = [row["steps"][step][space] for row in rows]
    return [part.get(metric, part.get("error", {}).get(metric, nothing)) for part in spaces]


def _table(
    leaderboard: Record, runs: Sequence[Run], step: int, space: str, metrics: Mapping[str, tuple[str, int]]
) -> Table:
    rows, columns, notes = leaderboard["rows"], [], []
    for metric, (head, digits) in metrics.items():
        values = _summaries(rows, step, space, metric)
        if any(value["mean"] is not None for value in values):
            columns.append(metric_column(values, metric, head, digits))
        elif reason := runs[0].report["steps"][step][space].get(f"{metric}_reason"):
            notes.append(f"{head} is undefined: {reason}.")
    return Table.of_columns([row["experiment"] for row in rows], columns, tuple(notes))


def metric_table(leaderboard: Record, runs: Sequence[Run], step: int, space: str) -> Table:
    """Tabulate calibration and entropy of a step; a metric that no run defines becomes a note.

    Args:
        leaderboard: from `build_leaderboard`.
        runs: one an experiment.
        step: number of the step.
        space: `reach` or `transition`.
    """
    shown = {k: v for k, v in _METRICS.items() if k != "rising_share" or (space == "reach" and step > 0)}
    return _table(leaderboard, runs, step, space, shown)


def error_table(leaderboard: Record, runs: Sequence[Run], step: int, space: str) -> Table | None:
    """Tabulate the error to the true probabilities, or return None when the truth is not known.

    Args:
        leaderboard: from `build_leaderboard`.
        runs: one an experiment.
        step: number of the step.
        space: `reach` or `transition`.
    """
    if not any("error" in row["steps"][step][space] for row in leaderboard["rows"]):
        return None
    return _table(leaderboard, runs, step, space, _ERRORS)


def _percent(value: float) -> str:
    return f"{value * 100:.4g} %"


def _roc_panel(runs: Sequence[Run], step: int, space: str, name: str) -> Panel:
    lines, rows = [], []
    for run in runs:
        roc = run.curves["steps"][step][space]["roc"]
        if roc is None:
            rows.append([run.experiment, *["undefined"] * len(_ALARMS)])
            continue
        lines.append(Line(run.series, roc["false_positive_rate"], roc["true_positive_rate"]))
        found = np.interp(_ALARMS, roc["false_positive_rate"], roc["true_positive_rate"])
        rows.append([run.experiment, *map(_percent, found)])
    heads = ["experiment", *(f"found at {_percent(rate)} false alarms" for rate in _ALARMS)]
    return Panel(
        f"ROC, {SPACE_NAMES[space]}",
        roc_figure(name, lines) if lines else "",
        f"ROC curves of {len(lines)} experiments in the {SPACE_NAMES[space]}; the table below holds their heights.",
        "",
        Table.of_text(heads, rows),
    )


def _reliability_panel(runs: Sequence[Run], step: int, space: str, name: str) -> Panel:
    lines, bars, rows = [], [], []
    for run in runs:
        bins = run.curves["steps"][step][space]["reliability"] or []
        if bins:
            lines.append(Line(run.series, [b["predicted"] for b in bins], [b["observed"] for b in bins]))
            bars.append([(b["low"], b["high"]) for b in bins])
        for b in bins:
            interval = f"{_percent(b['low'])} to {_percent(b['high'])}"
            rows.append([run.experiment, _percent(b["predicted"]), _percent(b["observed"]), interval, f"{b['rows']:,}"])
    empty = any(height == 0 for line in lines for height in line.y)
    return Panel(
        f"Reliability, {SPACE_NAMES[space]}",
        reliability_figure(name, lines, bars) if lines else "",
        f"Observed rate over mean prediction of {len(lines)} experiments in bins of equal mass, "
        f"{SPACE_NAMES[space]}; calibrated predictions lie on the diagonal.",
        "Bars are 95 % intervals."
        + (" On logarithmic axes, bins without a positive stand in the table only." if empty else ""),
        Table.of_text(["experiment", "mean prediction", "observed rate", "95 % interval", "rows"], rows),
    )


def curve_panels(runs: Sequence[Run], step: int) -> list[Panel]:
    """Draw ROC and reliability of a step; the first step's two spaces are one.

    Args:
        runs: one an experiment.
        step: number of the step.
    """
    panels = []
    for space in ("reach", "transition")[: 1 if step == 0 else 2]:
        panels.append(_roc_panel(runs, step, space, f"roc-{step}-{space}"))
        panels.append(_reliability_panel(runs, step, space, f"reliability-{step}-{space}"))
    return panels


def training_panels(runs: Sequence[Run], steps: Sequence[str]) -> list[Panel]:
    """Draw the normalised entropy on VALID for every step, and the loss on TRAIN.

    Args:
        runs: all runs of all experiments.
        steps: names of the steps.
    """
    panels = []
    for i, step in enumerate(steps):
        lines, rows = [], []
        for run in runs:
            points = [(e["step"], e["valid_ne"][i], e) for e in run.history["epochs"]]
            known = [(x, y) for x, y, _ in points if y is not None]
            lines.append(Line(run.series, [x for x, _ in known], [y for _, y in known]))
            seed = str(run.report["seed"])
            for x, y, epoch in points:
                value = "undefined" if y is None else f"{y:.5f}"
                chosen = "kept" if epoch["epoch"] == run.report["best_epoch"] else ""
                rows.append([run.experiment, seed, str(epoch["epoch"]), f"{x:,}", value, chosen])
        heads = ["experiment", "seed", "epoch", "training step", "normalised entropy", "weights"]
        panels.append(
            Panel(
                f"{step}: normalised entropy on VALID",
                ne_figure(f"ne-{i}", lines),
                f"Normalised entropy of {len(runs)} runs on VALID over training steps; lower is better.",
                "",
                Table.of_text(heads, rows),
            )
        )
    return [*panels, _loss_panel(runs)]


def _loss_panel(runs: Sequence[Run]) -> Panel:
    lines, rows = [], []
    for run in runs:
        points = run.history["loss"]
        lines.append(Line(run.series, [p["step"] for p in points], [p["loss"] for p in points]))
        seed, every = str(run.report["seed"]), max(1, (len(points) + 11) // 12)
        rows += [
            [run.experiment, seed, f"{p['step']:,}", f"{p['rows']:,}", f"{p['loss']:.5g}"] for p in points[::every]
        ]
    return Panel(
        "Loss on TRAIN",
        loss_figure("loss", lines),
        f"Training loss of {len(runs)} runs over training steps.",
        "Each experiment has its own loss, so levels of different experiments do not compare. "
        "The table holds at most twelve points a run.",
        Table.of_text(["experiment", "seed", "training step", "rows", "loss"], rows),
    )
