"""The leaderboard's columns, and the leaderboard as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from funnelcast.metrics import badness

__all__ = [
    "Column",
    "columns",
    "error_columns",
    "footnotes",
    "mean_std",
    "metric_column",
    "plain",
    "short",
    "to_json",
    "to_markdown",
]

Record = Mapping[str, Any]
# Key of a transition's errors in a report -> what they are errors to.
ERRORS = {"error": "transition", "potential_error": "potential"}
ERROR_NOTE = "Errors are root mean squared errors to the truth over all rows."


@dataclass(frozen=True)
class Column:
    """One column of a printed table.

    Args:
        head: its title, which names the space.
        texts: one cell a row.
        best: numbers of the rows that hold the best value; empty where all rows print the same.
        stars: numbers of the rows that are significantly better than the best other one by the paper's rule.
        intervals: a second line a row, `-` where there is none; empty for a column without intervals.
    """

    head: str
    texts: list[str]
    best: frozenset[int] = frozenset()
    stars: frozenset[int] = frozenset()
    intervals: tuple[str, ...] = ()

    def starred(self, row: int, star: str = "**") -> str:
        """Write a cell with the mark of significance behind its first number.

        Args:
            row: number of the row.
            star: the mark.

        Example:
            >>> Column("AUC", ["0.7149 ±0.0011"], stars=frozenset({0})).starred(0)
            '0.7149** ±0.0011'
        """
        number, space, spread = self.texts[row].partition(" ")
        return f"{number}{star if row in self.stars else ''}{space}{spread}"

    @classmethod
    def of(cls, head: str, texts: list[str], ranks: Sequence[float | None]) -> Column:
        """Make a column that marks its best value; rows that print the same as the best one are marked as well.

        Args:
            head: its title.
            texts: one cell a row.
            ranks: one number a row, lower is better; None where there is no value.
        """
        known = [i for i, rank in enumerate(ranks) if rank is not None]
        if len(set(texts)) < 2 or not known:
            return cls(head, texts)
        first = min(known, key=lambda i: ranks[i] or 0.0)
        return cls(head, texts, frozenset(i for i in known if texts[i] == texts[first]))


def mean_std(value: Record, digits: int = 4) -> str:
    """Write a summary over seeds such as `0.7123 ±0.0011`.

    Args:
        value: from `funnelcast.leaderboard.summary`.
        digits: after the point.

    Example:
        >>> mean_std({"mean": 0.71234, "std": 0.0011}), mean_std({"mean": None, "std": None})
        ('0.7123 ±0.0011', 'undefined')
    """
    if value["mean"] is None:
        return "undefined"
    return f"{value['mean']:.{digits}f}" + ("" if value["std"] is None else f" ±{value['std']:.{digits}f}")


def short(number: float) -> str:
    """Write a count or a speed in few characters.

    Args:
        number: >= 0.

    Example:
        >>> short(1_234_567), short(512), short(85_000)
        ('1.2 M', '512', '85.0 k')
    """
    for divisor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= divisor:
            return f"{number / divisor:.{1 if number < 100 * divisor else 0}f} {unit}"
    return f"{number:.0f}"


def metric_column(values: Sequence[Record], metric: str, head: str, digits: int = 4) -> Column:
    """Make the column of a metric, with its best value marked by the metric's own direction.

    Args:
        values: one summary over seeds a row.
        metric: name of the metric.
        head: title of the column.
        digits: after the point.
    """
    ranks = [None if value["mean"] is None else badness(metric, value["mean"]) for value in values]
    return Column.of(head, [mean_std(value, digits) for value in values], ranks)


def auc_column(values: Sequence[Record], head: str) -> Column:
    """Make the column of an AUC with its intervals, such as `0.6412..0.6698`, and its marks of significance.

    A dagger behind the interval marks a row that is better by seeds and rows together after Holm.

    Args:
        values: one summary over seeds a row, with `interval` and `test`.
        head: title of the column.
    """
    plain = metric_column(values, "auc", head)
    tests = [value.get("test") or {} for value in values]
    stars = frozenset(i for i, test in enumerate(tests) if test.get("paper_mark"))
    if not any(value.get("interval") for value in values):
        return replace(plain, stars=stars)
    texts = []
    for value, test in zip(values, tests, strict=True):
        bounds = value.get("interval")
        text = "-" if bounds is None else "..".join(f"{bound:.4f}" for bound in bounds)
        texts.append(f"{text} †" if test.get("holm_mark") and test["difference"] > 0 else text)
    return replace(plain, stars=stars, intervals=tuple(texts))


def footnotes(leaderboard: Record) -> list[str]:
    """Say below a table what its intervals and marks mean and which differences it cannot show.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    clusters = leaderboard["statistics"]["clusters"]
    level = 100 * (1 - leaderboard["statistics"]["alpha"])
    notes = []
    several = len(leaderboard["rows"]) > 1
    if several and max(row["runs"] for row in leaderboard["rows"]) > 1:
        notes.append("** better than the best other experiment, paired t-test over seeds, p < 0.01.")
    elif several:
        notes.append("One seed each: no test over seeds, so a lead may be luck of the seed.")
    if clusters is not None:
        resamples = leaderboard["statistics"]["resamples"]
        how = f"{resamples} resamples by {clusters}" if resamples else f"DeLong's variance by {clusters}"
        notes.append(f"Intervals of AUC: {level:.0f} % over other rows, {how}.")
    if clusters is not None and several:
        seeds = max(row["runs"] for row in leaderboard["rows"]) > 1
        test = f"seeds and rows (by {clusters}) together" if seeds else f"DeLong's test by {clusters}, as trained"
        notes[-1] += f" † better by {test}, p < {leaderboard['statistics']['alpha']} after Holm."
    power = [entry["sentence"] for entry in leaderboard["power"]]
    return [*notes, *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in power)]


def gain_column(leaderboard: Record, step: int, head: str) -> Column:
    """Make the column of a step's relative gain in reach AUC over the baseline.

    Args:
        leaderboard: from `build_leaderboard`; it has a baseline.
        step: number of the step.
        head: title of the column.
    """
    texts = []
    for row in leaderboard["rows"]:
        gain = row["steps"][step]["reach"]["auc_gain"]
        texts.append("-" if gain is None or row["experiment"] == leaderboard["baseline"] else f"{gain:+.2f} %")
    return Column(head, texts)


def error_columns(leaderboard: Record) -> list[Column]:
    """List the root mean squared errors of the transitions to the truth over all rows; none where it is not known.

    `transition error` is the error to the true transition, P(T_i = 1 | T_{i-1} = 1, x), `potential error` the one to
    the potential rate, P(T_i = 1 | x) if every row had the former step, at which debiasing aims. The first step has
    neither, as in `columns`.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    found = []
    for i, step in enumerate(leaderboard["funnel"][1:], start=1):
        for key, aim in ERRORS.items():
            values = [row["steps"][i]["transition"].get(key, {}).get("rmse") for row in leaderboard["rows"]]
            if any(values):
                known = [value or {"mean": None, "std": None} for value in values]
                found.append(metric_column(known, "rmse", f"{step['name']} {aim} error"))
    return found


def columns(leaderboard: Record) -> list[Column]:
    """List the columns beside the experiment's name: AUC and gain of every step, then the costs.

    The first step's local space is the entire space, so its transition is its reach and has no column of its own.
    Where the truth is known, its errors stand before the costs.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    rows = leaderboard["rows"]
    found = []
    for i, step in enumerate(leaderboard["funnel"]):
        reach = [row["steps"][i]["reach"]["auc"] for row in rows]
        found.append(auc_column(reach, f"{step['name']} reach AUC"))
        if leaderboard["baseline"] is not None:
            found.append(gain_column(leaderboard, i, f"{step['name']} reach gain"))
        if i > 0:
            transition = [row["steps"][i]["transition"]["auc"] for row in rows]
            found.append(auc_column(transition, f"{step['name']} transition AUC"))
    found += error_columns(leaderboard)
    parameters, speeds = [row["parameters"] for row in rows], [row["train_rows_per_second"] for row in rows]
    found.append(Column.of("parameters", [short(value) for value in parameters], parameters))
    found.append(Column.of("train rows/s", [short(value) for value in speeds], [-value for value in speeds]))
    return found


def to_json(leaderboard: Record) -> str:
    """Write the leaderboard as JSON.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    return json.dumps(leaderboard, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def plain(text: str) -> str:
    """Escape what Markdown would read as a mark.

    Args:
        text: a name from outside.

    Example:
        >>> len("single_task"), len(plain("single_task"))
        (11, 12)
    """
    for mark in "\\|*_`<[$":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def to_markdown(leaderboard: Record) -> str:
    """Write the leaderboard as a Markdown table; the best value of each column is bold, its interval beside it.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    shown = columns(leaderboard)
    lines = [["experiment", *(plain(column.head) for column in shown)], ["---", *["---:"] * len(shown)]]
    for i, row in enumerate(leaderboard["rows"]):
        cells = []
        for column in shown:
            text = column.starred(i, r"\*\*")
            interval = f" [{column.intervals[i]}]" if column.intervals else ""
            cells.append((f"**{text}**" if i in column.best else text) + interval)
        lines.append([plain(row["experiment"]), *cells])
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    seeds = ", ".join(map(str, leaderboard["seeds"]))
    errors = f" {ERROR_NOTE}\n" if error_columns(leaderboard) else "\n"
    notes = "".join(f"\n{plain(note)}\n" for note in footnotes(leaderboard))
    return (
        f"{table}\n{plain(leaderboard['dataset'])}, {plain(leaderboard['split'])}, "
        f"{leaderboard['row_count']:,} rows, seeds {seeds}; mean ± sample standard deviation over seeds.{errors}{notes}"
    )
