"""The section on the selector gates of models that have some, such as APEM."""

from __future__ import annotations

from collections.abc import Sequence

from funnelcast.report.charts import Dots, dot_chart
from funnelcast.report.elements import Group, Panel, Record, Section, Table, isolate, percent
from funnelcast.report.figures import Line, gamma_figure, gates_figure
from funnelcast.report.source import Run, Source

__all__ = ["selectors_section"]

_RUNS = 2  # experiments with figures
_SEGMENTS = 12


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
    name = f"selectors-{place + 1}"
    panels = [_rates_panel(name, found["layers"])]
    panels += [_gates_panel(f"{name}-gates-{i + 1}", layer) for i, layer in enumerate(found["layers"])]
    panels += [
        _segments_panel(f"{name}-segments-{i + 1}", layer)
        for i, layer in enumerate(found["layers"])
        if layer.get("segments")
    ]
    if found.get("gamma_curve"):
        panels.append(_gamma_panel(f"{name}-gamma", found["gamma_curve"]))
    note = f"{found['rows']:,} rows of {str(found['split']).upper()}."
    if found.get("gamma") is not None:
        note += f" Gamma of the kept weights, the width of the gate function: {found['gamma']:.4g}."
    return Group(isolate(run.experiment), note, panels=tuple(panels), tables=(_layers_table(found["layers"]),))


def _rates_panel(name: str, layers: Sequence[Record]) -> Panel:
    """The middle and the middle nine tenths of the rows' selection rates, layer by layer."""
    rows, cells = [], []
    for layer in layers:
        rates = layer["quantiles"]["rate"]
        low, middle, high = (float(rates[key]) for key in ("0.05", "0.5", "0.95"))
        rows.append(Dots(layer["name"], (), percent(middle, 3), (middle, "var(--s0)"), (low, high)))
        cells.append([layer["name"], *(percent(float(value), 3) for value in rates.values())])
    heads = [f"{percent(float(share), 3)} of rows below" for share in layers[0]["quantiles"]["rate"]]
    return Panel(
        f"{name}-rates",
        "Selection rate of rows",
        dot_chart(rows, 0.0, 1.0, ("0 %", "100 %")),
        f"Median selection rate and the middle nine tenths of the rows, of {len(rows)} layers.",
        "Upright: the median row; bar: nine rows in ten.",
        Table.of_text(["layer", *heads], cells),
    )


def _gates_panel(name: str, layer: Record) -> Panel:
    slots = sorted(layer["slots"], key=lambda slot: -float(slot["open_rate"]))
    rows = [
        [str(i + 1), percent(slot["open_rate"], 3), f"{slot['mean']:.4f}", "dead" if slot["dead"] else ""]
        for i, slot in enumerate(slots)
    ]
    return Panel(
        name,
        f"{layer['name']}: gates by open rate",
        gates_figure(name, [float(slot["open_rate"]) for slot in slots]),
        f"Share of rows on which each of {len(slots)} gates is open; {layer['dead']} are dead, "
        f"{layer['always_open']} always open.",
        f"{layer['dead']} of {len(slots)} gates are dead, {layer['always_open']} are open on every row.",
        Table.of_text(["place", "open on", "mean gate", ""], rows),
    )


def _segments_panel(name: str, layer: Record) -> Panel:
    shown = layer["segments"][:_SEGMENTS]
    rows = [Dots(str(s["value"]), ((float(s["rate"]), "var(--s0)"),), percent(s["rate"], 3)) for s in shown]
    cells = [
        [str(s["value"]), f"{s['rows']:,}", percent(s["rate"], 3), f"{s['mean']:.4f}", f"{s['entropy']:.4f}"]
        for s in layer["segments"]
    ]
    return Panel(
        name,
        f"{layer['name']}: selection rate by segment",
        dot_chart(rows, 0.0, 1.0, ("0 %", "100 %"), float(layer["rate"])),
        f"Mean selection rate of {len(rows)} segments; the upright line is that of all rows.",
        "The upright line is the rate of all rows.",
        Table.of_text(["segment", "rows", "selection rate", "mean gate", "entropy"], cells),
    )


def _gamma_panel(name: str, curve: Sequence[Record]) -> Panel:
    every = max(1, -(-len(curve) // 12))
    rows = [[f"{point['step']:,}", f"{point['gamma']:.4g}"] for point in curve[::every]]
    return Panel(
        name,
        "Gamma over training",
        gamma_figure(name, Line(0, [point["step"] for point in curve], [point["gamma"] for point in curve])),
        "Width of the gate function over training steps; gates get harder as it falls.",
        "",
        Table.of_text(["training step", "gamma"], rows),
    )


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
