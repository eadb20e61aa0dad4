"""What gates do, from `gates.json`, as figures with the tables behind them: for the page and for `inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funnelcast.drift import psi_words
from funnelcast.report.charts import Dots, dot_chart
from funnelcast.report.elements import Panel, Table, isolate, percent
from funnelcast.report.gate_figures import (
    gamma_figure,
    map_figure,
    map_marks,
    quarters,
    rate_figure,
    slots_figure,
    smooth_step_figure,
)

__all__ = ["WAYS", "gate_panels"]

Record = Mapping[str, Any]
WAYS = ("pca", "tsne")
_MAPS = {"pca": "principal components", "tsne": "t-SNE"}
_COLOURS = {"group": "selection rate", "reached": "last step reached"}
_SEGMENTS = 12
_POINTS = 12  # of a curve in a table
_SHIFT = 0.1  # PSI from which a shift is told


def gate_panels(record: Record, name: str, ways: Sequence[str] = WAYS) -> list[Panel]:
    """Draw all that a record can show.

    Args:
        record: `gates.json`.
        name: what the panels' names start with.
        ways: which maps are drawn where the record has them, `pca` and `tsne`.
    """
    panels = [_overview(f"{name}-rates", record["layers"])]
    if record.get("gamma_curve"):
        panels += _schedule(name, record["gamma_curve"])
    for number, layer in enumerate(record["layers"], 1):
        panels += [_rates(f"{name}-rate-{number}", layer), _slots(f"{name}-slots-{number}", layer)]
        if layer.get("segments"):
            panels.append(_segments(f"{name}-segments-{number}", layer, record.get("by") or "segment"))
    if record.get("drift"):
        panels.append(_drift(f"{name}-drift", record["drift"]))
    return [*panels, *_maps(name, record.get("map"), ways)]


def _overview(name: str, layers: Sequence[Record]) -> Panel:
    """The middle and the middle nine tenths of the rows' selection rates, layer by layer."""
    rows, cells = [], []
    for layer in layers:
        rates = layer["quantiles"]["rate"]
        low, middle, high = (float(rates[key]) for key in ("0.05", "0.5", "0.95"))
        rows.append(Dots(layer["name"], (), percent(middle, 3), (middle, "var(--s0)"), (low, high)))
        cells.append([layer["name"], *(percent(float(value), 3) for value in rates.values())])
    heads = [f"{percent(float(share), 3)} of rows below" for share in layers[0]["quantiles"]["rate"]]
    return Panel(
        name,
        "Selection rate of rows",
        dot_chart(rows, 0.0, 1.0, ("0 %", "100 %")),
        f"Median selection rate and the middle nine tenths of the rows, of {len(rows)} layers.",
        "Upright: the median row; bar: nine rows in ten.",
        Table.of_text(["layer", *heads], cells),
    )


def _schedule(name: str, curve: Sequence[Record]) -> tuple[Panel, Panel]:
    """Gamma over training, and the gate function that it makes."""
    every = max(1, -(-len(curve) // _POINTS))
    points = [[f"{point['step']:,}", f"{point['gamma']:.4g}"] for point in curve[::every]]
    widths = [[when, f"{gamma:.4g}", f"{-gamma / 2:.4g} to {gamma / 2:.4g}"] for when, gamma in quarters(curve)]
    return (
        Panel(
            f"{name}-gamma",
            "Gamma over training",
            gamma_figure(f"{name}-gamma", curve),
            "Width of the gate function over training steps; gates get harder as it falls.",
            "",
            Table.of_text(["training step", "gamma"], points),
        ),
        Panel(
            f"{name}-smooth-step",
            "The gate function in training",
            smooth_step_figure(f"{name}-smooth-step", curve),
            f"Gate over the selector's score at {len(widths)} times of the training; the steeper, the harder.",
            "Outside the scores of the table a gate is exactly 0 or 1.",
            Table.of_text(["when", "gamma", "undecided scores"], widths),
        ),
    )


def _rates(name: str, layer: Record) -> Panel:
    edges, counts = layer["rate_histogram"]["edges"], layer["rate_histogram"]["counts"]
    cells = [
        [f"{percent(max(low, 0.0), 3)} to {percent(min(high, 1.0), 3)}", f"{rows:,}", percent(rows / sum(counts), 3)]
        for low, high, rows in zip(edges[:-1], edges[1:], counts, strict=True)
        if rows
    ]
    return Panel(
        name,
        f"{layer['name']}: rows by selection rate",
        rate_figure(name, layer),
        f"How many rows open which share of {layer['gates']} gates; the dashed line is the median row.",
        "",
        Table.of_text(["selection rate", "rows", "share of rows"], cells),
    )


def _slots(name: str, layer: Record) -> Panel:
    slots = sorted(layer["slots"], key=lambda slot: (slot["open_rate"], slot["mean"]), reverse=True)
    rows = [
        [str(i + 1), percent(slot["open_rate"], 3), f"{slot['mean']:.4f}", "dead" if slot["dead"] else ""]
        for i, slot in enumerate(slots)
    ]
    return Panel(
        name,
        f"{layer['name']}: gates by open rate",
        slots_figure(name, layer),
        f"Share of rows on which each of {len(slots)} gates is open; {layer['dead']} are dead, "
        f"{layer['always_open']} always open.",
        f"{layer['dead']} of {len(slots)} gates are dead, {layer['always_open']} are open on every row.",
        Table.of_text(["place", "open on", "mean gate", ""], rows),
    )


def _segments(name: str, layer: Record, by: str) -> Panel:
    shown = layer["segments"][:_SEGMENTS]
    rows = [Dots(str(s["value"]), ((float(s["rate"]), "var(--s0)"),), percent(s["rate"], 3)) for s in shown]
    cells = [
        [str(s["value"]), f"{s['rows']:,}", percent(s["rate"], 3), f"{s['mean']:.4f}", f"{s['entropy']:.4f}"]
        for s in layer["segments"]
    ]
    return Panel(
        name,
        f"{layer['name']}: selection rate by {isolate(by)}",
        dot_chart(rows, 0.0, 1.0, ("0 %", "100 %"), float(layer["rate"])),
        f"Mean selection rate of {len(rows)} segments; the upright line is that of all rows.",
        "The upright line is the rate of all rows.",
        Table.of_text(["segment", "rows", "selection rate", "mean gate", "entropy"], cells),
    )


def _drift(name: str, drift: Record) -> Panel:
    """How far gates have moved from the reference, layer by layer."""
    layers = drift["layers"]
    high = max(_SHIFT, *(value for layer in layers for value in (*layer["slots"], layer["rate"])))
    rows, cells = [], []
    for layer in layers:
        slots = tuple((float(value), "var(--bar)") for value in layer["slots"])
        rows.append(Dots(layer["name"], slots, f"{layer['rate']:.4f}", (float(layer["rate"]), "var(--s0)")))
        moved = sum(psi_words(value) != "stable" for value in layer["slots"])
        numbers = [f"{value:.4f}" for value in (layer["rate"], layer["rate_by_chance"])]
        cells.append([layer["name"], *numbers, layer["words"], str(moved), f"{max(layer['slots']):.4f}"])
    against = drift["against"]
    return Panel(
        name,
        "Drift of the gates",
        dot_chart(rows, 0.0, high, ("PSI 0", f"{high:.3g}"), _SHIFT),
        f"Population stability index of the selection rate and of every gate of {len(rows)} layers, from 0 to "
        f"{high:.3g}.",
        f"Against {against['rows']:,} rows of {str(against['split']).upper()} of "
        f"{isolate(Path(against['folder']).name)}. Upright and at the right: the selection rate; a dot: a gate; the "
        f"grey line: {_SHIFT:g}, a moderate shift.",
        Table.of_text(
            ["layer", "PSI of the selection rate", "by chance", "in words", "gates that moved", "farthest gate"], cells
        ),
    )


def _maps(name: str, points: Record | None, ways: Sequence[str]) -> Iterator[Panel]:
    """Rows as points, by what the towers read of them."""
    if points is None:
        return
    for way in ways:
        for colour, words in _COLOURS.items() if points[way] else ():
            panel = f"{name}-{way}-{colour}"
            yield Panel(
                panel,
                f"Map by {_MAPS[way]}: {words}",
                map_figure(panel, points, way, colour),
                f"{points['rows']:,} rows as points by what the towers read of them, placed by {_MAPS[way]}, coloured "
                f"by {words}; the table holds the middle of each colour.",
                "Distances between far groups mean nothing." if way == "tsne" else "",
                _map_table(points, way, colour),
            )


def _map_table(points: Record, way: str, colour: str) -> Table:
    """The rows, the middle and, of thirds, the selection rate of every colour."""
    places = np.array(points[way])
    rates = {group["group"]: group["rate"] for group in points.get("groups", ())}
    cells = []
    for _, words, members in map_marks(points, colour):
        middle = [f"{value:.3g}" for value in places[members].mean(axis=0)]
        rate = [percent(rates[words.removesuffix(" rate")], 3)] if colour == "group" and rates else []
        cells.append([words, f"{int(members.sum()):,}", *middle, *rate])
    heads = ["colour", "rows", "middle, across", "middle, up", "selection rate"]
    return Table.of_text(heads[: len(cells[0])], cells)
