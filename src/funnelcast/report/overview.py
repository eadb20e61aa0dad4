"""The first sections: the verdict, the funnel, the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from funnelcast.published import HEADING, published_cells
from funnelcast.report.charts import Dots, dot_chart, funnel_chart
from funnelcast.report.elements import Cell, Group, Panel, Record, Section, Table, isolate, number, percent
from funnelcast.report.source import Source
from funnelcast.report.words import verdict
from funnelcast.tables import columns, mean_std

__all__ = ["funnel_section", "leaderboard_section", "verdict_section"]


def verdict_section(source: Source) -> Section:
    """Say in words what the numbers are worth.

    Args:
        source: what the page is about.
    """
    calibrations = {run.experiment: run.extras["calibration"] for run in source.with_extra("calibration")}
    return Section("verdict", "Verdict", "Verdict", words=tuple(verdict(source.board, calibrations)))


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "undefined"


def _predicted(row: Record, step: int, space: str, observed: float | None) -> float | None:
    """Mean prediction of an experiment: PCOC = mean prediction / observed rate."""
    pcoc = row["steps"][step][space]["pcoc"]["mean"]
    return None if pcoc is None or observed is None else pcoc * observed


def funnel_section(source: Source) -> Section:
    """Draw the funnel with its counts, its rates and what the leader predicts.

    Args:
        source: what the page is about.
    """
    board, leader = source.board, source.leader.experiment
    stages: list[tuple[str, float, str, tuple[str, ...]]] = [("all rows", 1.0, f"{board['row_count']:,}", ())]
    heads, rows = ["experiment"], [["observed"], *([name] for name in source.names)]
    for i, step in enumerate(board["funnel"]):
        words = []
        for space, part, whole in (
            ("reach", step["positives"], step["rows"]),
            ("transition", step["local_positives"], step["local_rows"]),
        )[: 1 if i == 0 else 2]:
            rate = part / whole if whole else None
            guesses = [_predicted(row, i, space, rate) for row in board["rows"]]
            texts = ["undefined" if guess is None else percent(guess) for guess in guesses]
            words.append(f"{space} {_share(part, whole)}, predicted {texts[source.names.index(leader)]}")
            heads.append(f"{step['name']} {space}")
            for line, text in zip(rows, [_share(part, whole), *texts], strict=True):
                line.append(text)
        share = step["positives"] / step["rows"] if step["rows"] else 0.0
        stages.append((step["name"], share, f"{step['positives']:,}", tuple(words)))
    panel = Panel(
        "funnel",
        "Rows that reach each step",
        funnel_chart(stages),
        f"Funnel of {len(stages) - 1} steps: "
        + ", ".join(f"{name} {count}" for name, _, count, _ in stages)
        + "; the table below holds observed and predicted rates.",
        f"Bars are as wide as the step's share of all rows. Predicted by {isolate(leader)}: the mean prediction over "
        "the same rows, mean over seeds.",
        Table.of_text(heads, rows),
    )
    note = "Reach is the share of all rows whose label is known; transition the share of the rows on which the "
    return Section("funnel", "Funnel", "Funnel", f"{note}former step happened.", groups=(Group(panels=(panel,)),))


def leaderboard_section(source: Source) -> Section:
    """Show the table of all experiments, and the reach AUC of every seed.

    Args:
        source: what the page is about.
    """
    board = source.board
    note = (
        "Reach AUC is over all rows, transition AUC over the rows on which the former step happened; the two do not "
        "compare. "
    )
    if board["baseline"] is not None:
        note += f"Gain is the relative change of the mean reach AUC over {isolate(board['baseline'])}. "
    strips = tuple(_strip(source, i) for i in range(len(source.steps)))
    dots = (
        "A dot is a run, the upright mark the mean of an experiment, a grey bar the interval of its AUC where it is "
        "known. Each line runs from the lowest to the highest value of its step."
    )
    groups = [Group(tables=(_board_table(source),)), Group("Reach AUC of every seed", dots, panels=strips)]
    tests, published = _tests_table(source), _published(board)
    if tests is not None:
        groups.insert(1, Group("Tests of the differences", tables=(tests,), folded=True))
    groups += [published] if published is not None else []
    return Section(
        "leaderboard", "Leaderboard", "Leaderboard", f"{note}The best value of a column is bold.", groups=tuple(groups)
    )


def _interval(value: Record) -> tuple[float, float] | None:
    found = value.get("interval")
    return None if found is None else (float(found[0]), float(found[1]))


def _marks(test: Record | None) -> str:
    """Write `**` for a better mean by the paper's rule, and a dagger for a better AUC by Holm's corrected test."""
    if test is None:
        return ""
    return ("**" if test.get("paper_mark") else "") + ("†" if test.get("holm_mark") and test["difference"] > 0 else "")


def _board_table(source: Source) -> Table:
    """The leaderboard's columns, with intervals and marks below and beside the AUCs."""
    board = source.board
    table = Table.of_columns(source.names, columns(board))
    aucs = {
        f"{step['name']} {space} AUC": (i, space)
        for i, step in enumerate(board["funnel"])
        for space in ("reach", "transition")
    }
    rows, marks, bounded = [], "", False
    for row, cells in zip(board["rows"], table.rows, strict=True):
        line = []
        for head, cell in zip(table.heads, cells, strict=True):
            if head in aucs:
                step, space = aucs[head]
                value = row["steps"][step][space]["auc"]
                interval, mark = _interval(value), _marks(value.get("test"))
                bounded, marks = bounded or interval is not None, marks + mark
                words = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
                cell = replace(cell, mark=mark, small="\n".join(part for part in (cell.small, words) if part))
            line.append(cell)
        rows.append(line)
    alpha = board.get("statistics", {}).get("alpha", 0.05)
    notes = [f"Below an AUC: its spread over seeds and its {(1 - alpha) * 100:g} % interval."] if bounded else []
    notes += ["** better than the best other experiment, paired t-test over seeds, p < 0.01."] if "**" in marks else []
    seeds = max(row["runs"] for row in board["rows"]) > 1
    test = "seeds and rows together" if seeds else "DeLong's test of these rows, seeds left out"
    notes += [f"† better by {test}, p < {alpha:g} after Holm's correction."] if "†" in marks else []
    return Table(table.heads, rows, tuple(notes), "experiments")


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _tests_table(source: Source) -> Table | None:
    """Every test of a difference in AUC, or None where none was made."""
    rows = []
    for row in source.board["rows"]:
        for i, step in enumerate(row["steps"]):
            for space in ("reach", "transition")[: 1 if i == 0 else 2]:
                test = step[space]["auc"].get("test")
                if test is None:
                    continue
                bounds = test.get("interval")
                interval = "-" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
                values = [_p(test.get(f"{name}_p")) for name in ("t", "wilcoxon", "delong", "combined", "holm")]
                difference = number(test.get("difference"), 4, "+")
                rows.append(
                    [
                        Cell(row["experiment"]),
                        Cell(f"{source.steps[i]} {space}"),
                        Cell(str(test.get("against", ""))),
                        Cell(difference, mark=_marks(test)),
                        Cell(interval),
                        *map(Cell, values),
                    ]
                )
    if not rows:
        return None
    heads = ["experiment", "step", "against", "difference of AUC", "interval", "p, t-test", "p, Wilcoxon"]
    return Table([*heads, "p, DeLong", "p, both", "p, Holm"], rows, _conditions(source.board), "experiments")


def _conditions(board: Record) -> tuple[str, ...]:
    found = board.get("statistics", {})
    parts = [f"{name} {found[name]}" for name in ("alpha", "resamples", "clusters") if found.get(name) is not None]
    return (f"Statistics: {', '.join(parts)}.",) if parts else ()


def _strip(source: Source, step: int) -> Panel:
    """Reach AUC of every run as dots on a line an experiment."""
    values = [row["steps"][step]["reach"]["auc"] for row in source.board["rows"]]
    known = [v for value in values for v in value["values"] if v is not None]
    known += [bound for value in values for bound in _interval(value) or ()]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    colours = {run.experiment: run.colour for run in source.first}
    rows, cells = [], []
    for name, value in zip(source.names, values, strict=True):
        dots = tuple((v, colours[name]) for v in value["values"] if v is not None)
        mean = None if value["mean"] is None else (value["mean"], colours[name])
        rows.append(Dots(name, dots, number(value["mean"]), mean, _interval(value)))
        cells.append([name, mean_std(value), *_by_seed(source, name, value["values"])])
    return Panel(
        f"step-{step + 1}-seeds",
        source.steps[step],
        dot_chart(rows, low, high, (f"{low:.4f}", f"{high:.4f}")),
        f"Reach AUC of every run of {len(rows)} experiments, from {low:.4f} to {high:.4f}.",
        "",
        Table.of_text(["experiment", "mean", *(f"seed {seed}" for seed in source.board["seeds"])], cells),
    )


def _by_seed(source: Source, name: str, values: Sequence[float | None]) -> list[str]:
    """Write the values of an experiment below the seeds of the whole comparison."""
    seeds = next(row["seeds"] for row in source.board["rows"] if row["experiment"] == name)
    found = dict(zip(seeds, values, strict=True))
    return [number(found[seed]) if seed in found else "-" for seed in source.board["seeds"]]


def _published(board: Record) -> Group | None:
    """What other laboratories published on the same data, or None where nothing is known."""
    heads, rows, notes = published_cells(board)
    return Group(HEADING, tables=(Table.of_text(heads, rows, tuple(notes)),)) if rows else None
