"""The leaderboard as JSON, CSV, Markdown and a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from funnelcast.metrics import badness

__all__ = [
    "Column",
    "columns",
    "error_columns",
    "error_table",
    "mean_std",
    "metric_column",
    "plain",
    "short",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_rich_table",
]

Record = Mapping[str, Any]
# Key of a transition's errors in a report -> what they are errors to.
ERRORS = {"error": "transition", "potential_error": "potential"}
_ERROR_NOTE = "Errors are root mean squared errors to the truth over all rows."
SPEEDS = ("train_rows_per_second", "score_rows_per_second", "train_seconds")


@dataclass(frozen=True)
class Column:
    """One column of a printed table.

    Args:
        head: its title, which names the space.
        texts: one cell a row.
        best: numbers of the rows that hold the best value; empty where all rows print the same.
    """

    head: str
    texts: list[str]
    best: frozenset[int] = frozenset()

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
        found.append(metric_column(reach, "auc", f"{step['name']} reach AUC"))
        if leaderboard["baseline"] is not None:
            found.append(gain_column(leaderboard, i, f"{step['name']} reach gain"))
        if i > 0:
            transition = [row["steps"][i]["transition"]["auc"] for row in rows]
            found.append(metric_column(transition, "auc", f"{step['name']} transition AUC"))
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
                else:
                    yield from ((f"{head} {part}", value[part]) for part in ("mean", "std", "undefined"))


def to_csv(leaderboard: Record) -> str:
    """Write the leaderboard as CSV: one line an experiment, every metric with mean, std and number of undefined runs.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    heads = list(dict.fromkeys(head for row in leaderboard["rows"] for head, _ in _flat(row)))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(_flat(row)) for row in leaderboard["rows"])
    return text.getvalue()


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
    """Write the leaderboard as a Markdown table; the best value of each column is bold.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    shown = columns(leaderboard)
    lines = [["experiment", *(plain(column.head) for column in shown)], ["---", *["---:"] * len(shown)]]
    for i, row in enumerate(leaderboard["rows"]):
        cells = [f"**{column.texts[i]}**" if i in column.best else column.texts[i] for column in shown]
        lines.append([plain(row["experiment"]), *cells])
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    seeds = ", ".join(map(str, leaderboard["seeds"]))
    errors = f" {_ERROR_NOTE}\n" if error_columns(leaderboard) else "\n"
    return (
        f"{table}\n{plain(leaderboard['dataset'])}, {plain(leaderboard['split'])}, "
        f"{leaderboard['row_count']:,} rows, seeds {seeds}; mean ± sample standard deviation over seeds.{errors}"
    )


def to_rich_table(leaderboard: Record) -> Table:
    """Write the leaderboard as a table for the terminal; the best value of each column is bold.

    A step's gain stands below its reach AUC, so that three steps fit into 120 columns.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    title = f"{leaderboard['dataset']}, {leaderboard['split']}, {leaderboard['row_count']:,} rows"
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("experiment", overflow="fold", max_width=22)
    errors = {column.head for column in error_columns(leaderboard)}  # in a table of their own, for want of width
    shown = [column for column in columns(leaderboard) if column.head not in errors]
    gains = {column.head.removesuffix(" gain"): column for column in shown if column.head.endswith(" reach gain")}
    shown = [column for column in shown if column not in gains.values()]
    for column in shown:
        head = column.head
        for words in (" reach AUC", " transition AUC", " rows/s"):
            head = head.replace(words, f"\n{words.strip()}")
        table.add_column(Text(head), justify="right", overflow="fold")
    for i, row in enumerate(leaderboard["rows"]):
        cells = []
        for column in shown:
            cell = Text(column.texts[i], style="bold" if i in column.best else "")
            gain = gains.get(column.head.removesuffix(" AUC"))
            cells.append(cell.append(f"\n{gain.texts[i]}", style="not bold dim") if gain else cell)
        table.add_row(Text(row["experiment"]), *cells)
    return table


def error_table(leaderboard: Record) -> Table | None:
    """Write the errors to the truth as a table for the terminal, or return None where the truth is not known.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    shown = error_columns(leaderboard)
    if not shown:
        return None
    table = Table(title=Text(_ERROR_NOTE), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("experiment", overflow="fold", max_width=22)
    for column in shown:
        step, aim, word = column.head.rsplit(" ", 2)
        table.add_column(Text(f"{step}\n{aim} {word}"), justify="right", overflow="fold")
    for i, row in enumerate(leaderboard["rows"]):
        cells = (Text(column.texts[i], style="bold" if i in column.best else "") for column in shown)
        table.add_row(Text(row["experiment"]), *cells)
    return table
