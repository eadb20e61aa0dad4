"""Sections on what later commands have found about a run: importance of fields and slices of the rows."""

from __future__ import annotations

from collections.abc import Sequence

from funnelcast.report.charts import Bar, Dots, bar_chart, dot_chart
from funnelcast.report.colours import series_colour
from funnelcast.report.elements import Entry, Group, Panel, Record, Section, Table, isolate, number
from funnelcast.report.source import Run, Source

__all__ = ["importance_section", "slices_section"]

_FIELDS = 15  # bars of a figure of importance
_COLUMNS, _SLICES = 8, 12  # columns and values of a column with figures and tables
_GAPS = 5  # slices far below all rows that are told in words
_OTHERS = 3  # experiments whose tables are folded below the one that is drawn


def importance_section(source: Source) -> Section | None:
    """Show how much the scores fall when a field is shuffled, or return None where no run was asked.

    Args:
        source: what the page is about.
    """
    runs = source.with_extra("importance")
    if not runs:
        return None
    found = runs[0].extras["importance"]
    panels = [
        _importance_panel(found["fields"], i, step, space)
        for i, step in enumerate(source.steps)
        for space in ("reach", "transition")[: 1 if i == 0 else 2]
    ]
    note = (
        f"How much an AUC falls on {str(found['split']).upper()} when the values of one field are shuffled among the "
        f"rows, mean of {found['repeats']} shuffles with its standard deviation. Figures show "
        f"{isolate(runs[0].experiment)}, the {_FIELDS} fields that matter most."
    )
    others = tuple(
        Group(
            run.experiment, tables=(_importance_table(run.extras["importance"]["fields"], source.steps),), folded=True
        )
        for run in runs[: 1 + _OTHERS]
    )
    groups = (Group(panels=tuple(panels)), *others)
    return Section("importance", "Importance of fields", "Importance", note, groups=groups)


def _drop(field: Record, step: int, space: str) -> Record:
    found: Record = field["steps"][step][space]["auc_drop"]
    return found


def _importance_panel(fields: Sequence[Record], step: int, name: str, space: str) -> Panel:
    known = [field for field in fields if _drop(field, step, space)["mean"] is not None]
    known = sorted(known, key=lambda field: -float(_drop(field, step, space)["mean"]))
    bars = []
    for field in known[:_FIELDS]:
        drop = _drop(field, step, space)
        bars.append(Bar(field["name"], drop["mean"], f"{drop['mean']:+.4f}", drop["std"] or 0.0))
    rows = [
        [field["name"], number(_drop(field, step, space)["mean"], 5), number(_drop(field, step, space)["std"], 5)]
        for field in known
    ]
    return Panel(
        f"importance-{step + 1}-{space}",
        f"{name}: fall of {space} AUC",
        bar_chart(bars) if bars else "",
        f"Fall of the {space} AUC for the {len(bars)} most important fields.",
        "",
        Table.of_text(["field", "fall of AUC", "standard deviation"], rows),
    )


def _importance_table(fields: Sequence[Record], steps: Sequence[str]) -> Table:
    places = [
        (i, step, space) for i, step in enumerate(steps) for space in ("reach", "transition")[: 1 if i == 0 else 2]
    ]
    kinds = {"auc_drop": "fall of AUC", "logloss_rise": "rise of log-loss"}
    heads = [f"{step} {space}: {words}" for _, step, space in places for words in kinds.values()]
    rows = []
    for field in fields:
        values = [field["steps"][i][space].get(kind) or {} for i, _, space in places for kind in kinds]
        rows.append([field["name"], *(number(value.get("mean"), 5) for value in values)])
    return Table.of_text(["field", *heads], rows)


def slices_section(source: Source) -> Section | None:
    """Show the scores on parts of the rows, or return None where no run was sliced.

    Args:
        source: what the page is about.
    """
    runs = source.with_extra("slices")
    if not runs:
        return None
    found = runs[0].extras["slices"]
    shown = found["columns"][:_COLUMNS]
    note = (
        f"Scores on {str(found['split']).upper()} of the rows with one value of a column. Figures show "
        f"{isolate(runs[0].experiment)}; a dot is the reach AUC of a step on the rows of a value."
    )
    if len(found["columns"]) > len(shown):
        note += f" The first {len(shown)} of {len(found['columns'])} columns are shown, the rest stand in slices.json."
    legend = tuple(Entry(step, series_colour(i)) for i, step in enumerate(source.steps))
    panels = tuple(_slice_panel(i, column, source.steps, legend) for i, column in enumerate(shown))
    others = tuple(_folded_slices(run, source.steps) for run in runs[1 : 1 + _OTHERS])
    gaps = tuple((f"{gap['column']} = {gap['value']}", f"{gap['sentence']}.") for gap in found.get("gaps", [])[:_GAPS])
    groups = (Group(legend=legend, panels=panels), *others)
    return Section("slices", "Slices", "Slices", note, words=gaps, groups=groups)


def _slice_panel(number_of_column: int, column: Record, steps: Sequence[str], legend: tuple[Entry, ...]) -> Panel:
    slices = sorted(column["slices"], key=lambda part: -int(part["rows"]))[:_SLICES]
    values = [
        [(part["steps"][i]["reach"].get("auc"), entry.colour) for i, entry in enumerate(legend)] for part in slices
    ]
    known = [value for row in values for value, _ in row if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    rows = [
        Dots(str(part["value"]), tuple((v, colour) for v, colour in row if v is not None), f"{part['rows']:,}")
        for part, row in zip(slices, values, strict=True)
    ]
    more = len(column["slices"]) - len(slices)
    return Panel(
        f"slices-{number_of_column + 1}",
        f"{column['column']} ({column['kind']})",
        dot_chart(rows, low, high, (f"{low:.4f}", f"{high:.4f}")) if known else "",
        f"Reach AUC of {len(steps)} steps on {len(slices)} slices, from {low:.4f} to {high:.4f}.",
        f"The largest {len(slices)} slices; {more} more stand in slices.json." if more > 0 else "",
        _slice_table(column, steps),
        legend,
    )


def _slice_table(column: Record, steps: Sequence[str]) -> Table:
    metrics = {"auc": ("AUC", 4), "pcoc": ("PCOC", 3), "ne": ("NE", 4)}
    places = [
        (i, step, space) for i, step in enumerate(steps) for space in ("reach", "transition")[: 1 if i == 0 else 2]
    ]
    heads = [f"{step} {space} {words}" for _, step, space in places for words, _ in metrics.values()]
    rows = []
    for part in sorted(column["slices"], key=lambda part: -int(part["rows"]))[:_SLICES]:
        cells = [
            number(part["steps"][i][space].get(metric), digits)
            for i, _, space in places
            for metric, (_, digits) in metrics.items()
        ]
        positives = [f"{part['steps'][i]['positives']:,}" for i in range(len(steps))]
        rows.append([str(part["value"]), f"{part['rows']:,}", *positives, *cells])
    return Table.of_text(["value", "rows", *(f"{step} positives" for step in steps), *heads], rows)


def _folded_slices(run: Run, steps: Sequence[str]) -> Group:
    tables = []
    for column in run.extras["slices"]["columns"][:_COLUMNS]:
        table = _slice_table(column, steps)
        tables.append(Table([str(column["column"]), *table.heads[1:]], table.rows))
    return Group(run.experiment, tables=tuple(tables), folded=True)
