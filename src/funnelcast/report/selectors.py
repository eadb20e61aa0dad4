"""The section on the selector gates of models that have some, such as APEM."""

from __future__ import annotations

from collections.abc import Sequence

from funnelcast.report.elements import Group, Record, Section, Table, isolate, percent
from funnelcast.report.gate_panels import WAYS, gate_panels
from funnelcast.report.gate_words import gate_findings
from funnelcast.report.source import Run, Source

__all__ = ["selectors_section"]

_RUNS = 2  # experiments with figures, the first with a map


def selectors_section(source: Source) -> Section | None:
    """Show which gates are open on how many rows, or return None where no run was inspected.

    Args:
        source: what the page is about.
    """
    runs = source.with_extra("gates")
    if not runs:
        return None
    note = (
        "A gate lets one pattern into a step's view of a row, or keeps it out. Selection rate: share of a layer's "
        "gates that are open on a row. A dead gate is closed on every row. Entropy: how undecided gates are, from 0 "
        "(all open or closed) to 1."
    )
    groups = tuple(_group(i, run) for i, run in enumerate(runs[:_RUNS]))
    return Section("selectors", "Selector gates", "Selectors", note, groups=groups)


def _group(place: int, run: Run) -> Group:
    found = run.extras["gates"]
    note = f"{found['rows']:,} rows of {str(found['split']).upper()}. {' '.join(gate_findings(found))}"
    panels = gate_panels(found, f"selectors-{place + 1}", _ways(found) if place == 0 else ())
    return Group(isolate(run.experiment), note, panels=tuple(panels), tables=(_layers_table(found["layers"]),))


def _ways(found: Record) -> tuple[str, ...]:
    """Choose one map of the two, since they are the largest figures of the page; `inspect` writes both as files."""
    points = found.get("map") or {}
    return next(((way,) for way in reversed(WAYS) if points.get(way)), ())


def _layers_table(layers: Sequence[Record]) -> Table:
    rows = [
        [
            layer["name"],
            f"{layer['gates']:,}",
            percent(layer["rate"], 3),
            f"{layer['mean']:.4f}",
            f"{layer['entropy']:.4f}",
            percent(layer["exact_zero"], 3),
            percent(layer["exact_one"], 3),
            str(layer["dead"]),
            str(layer["always_open"]),
        ]
        for layer in layers
    ]
    heads = [
        "layer",
        "gates",
        "selection rate",
        "mean gate",
        "entropy",
        "exactly 0",
        "exactly 1",
        "dead",
        "always open",
    ]
    return Table.of_text(heads, rows)
