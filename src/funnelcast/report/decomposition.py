"""The section on which step loses the customer."""

from __future__ import annotations

from collections.abc import Sequence

from funnelcast.report.charts import Stack, stack_chart
from funnelcast.report.colours import series_colour
from funnelcast.report.elements import Entry, Group, Panel, Record, Section, Table, isolate, number, percent
from funnelcast.report.source import Run, Source

__all__ = ["decomposition_section"]

_COLUMNS, _SEGMENTS = 6, 12  # columns, and values of a column, with figures and tables
_OTHERS = 3  # experiments whose tables are folded below the one that is drawn


def decomposition_section(source: Source) -> Section | None:
    """Show the share of every step in the loss of customers, or return None where no run was decomposed.

    Args:
        source: what the page is about.
    """
    runs = source.with_extra("decomposition")
    if not runs:
        return None
    found = runs[0].extras["decomposition"]
    note = (
        "The log-probability of the last step is the sum of the logs of the transitions; a step's share is its part of "
        "the mean of that sum. Fixed: conversions per 1,000 rows gained if every row took the step. Raised: gained if "
        "no row were below the best quarter of its segment. Both follow the model, not an experiment. Figures show "
        f"{isolate(runs[0].experiment)}."
    )
    legend = tuple(Entry(step, series_colour(i)) for i, step in enumerate(source.steps))
    overall = _panel("decomposition-all", "All rows", [found["overall"]], legend)
    columns = [
        _panel(f"decomposition-{i + 1}", column["column"], column["segments"], legend)
        for i, column in enumerate(found["columns"][:_COLUMNS])
    ]
    others = tuple(Group(run.experiment, tables=_tables(run), folded=True) for run in runs[1 : 1 + _OTHERS])
    return Section(
        "decomposition",
        "Which step loses the customer",
        "Decomposition",
        note,
        words=_words(found["overall"]),
        groups=(Group(legend=legend, panels=(overall, *columns)), *others),
    )


def _words(overall: Record) -> tuple[tuple[str, str], ...]:
    """Name the step with the largest share, and the one that would bring most."""
    known = [step for step in overall["steps"] if step["share"] is not None]
    if not known:
        return ()
    worst = max(known, key=lambda step: float(step["share"]))
    best = max(known, key=lambda step: float(step["raised_per_1000"]))
    text = (
        f"{percent(worst['share'], 3)} of the loss falls on this step; its mean transition is "
        f"{percent(worst['mean_transition'])}. Raising the weak rows would bring most at {isolate(best['name'])}: "
        f"{best['raised_per_1000']:+.2f} conversions per 1,000 rows, which now have {overall['expected_per_1000']:.2f}."
    )
    return ((worst["name"], text),)


def _panel(name: str, title: str, segments: Sequence[Record], legend: tuple[Entry, ...]) -> Panel:
    shown = _largest(segments)
    rows = [
        Stack(
            str(part["value"]),
            tuple(
                (float(step["share"] or 0.0), entry.colour) for step, entry in zip(part["steps"], legend, strict=True)
            ),
            number(part["expected_per_1000"], 2),
        )
        for part in shown
        if part["steps"] and all(step["share"] is not None for step in part["steps"])
    ]
    more = len(segments) - len(shown)
    return Panel(
        name,
        title,
        stack_chart(rows) if rows else "",
        f"Shares of {len(legend)} steps in the loss of customers on {len(rows)} segments.",
        "At the right: expected conversions per 1,000 rows."
        + (f" The largest {len(shown)} segments; {more} more stand in decomposition.json." if more > 0 else ""),
        _table(shown, [entry.name for entry in legend]),
        legend,
    )


def _largest(segments: Sequence[Record]) -> list[Record]:
    return sorted(segments, key=lambda part: -int(part["rows"]))[:_SEGMENTS]


def _table(segments: Sequence[Record], steps: Sequence[str], head: str = "segment") -> Table:
    heads = [f"{step}: {word}" for step in steps for word in ("share", "fixed", "raised")]
    rows = []
    for part in segments:
        cells = []
        for step in part["steps"]:
            share = "undefined" if step["share"] is None else percent(step["share"], 3)
            cells += [share, number(step["fixed_per_1000"], 2, "+"), number(step["raised_per_1000"], 2, "+")]
        cells += ["undefined"] * (len(heads) - len(cells))
        rates = [number(part[f"{kind}_per_1000"], 2) for kind in ("observed", "expected")]
        rows.append([str(part["value"]), f"{part['rows']:,}", *rates, *cells])
    return Table.of_text([head, "rows", "observed per 1,000", "expected per 1,000", *heads], rows)


def _tables(run: Run) -> tuple[Table, ...]:
    found = run.extras["decomposition"]
    steps = [step["name"] for step in found["overall"]["steps"]]
    parts = [("all", [found["overall"]]), *((c["column"], c["segments"]) for c in found["columns"][:_COLUMNS])]
    return tuple(_table(_largest(segments), steps, str(head)) for head, segments in parts)
