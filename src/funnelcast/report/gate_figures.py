"""Figures of what gates do, from `gates.json`; as the others, they hold no text from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from funnelcast.report.figures import _INK, Line, _colour, _draw, _percent, _training

__all__ = [
    "gamma_figure",
    "map_figure",
    "map_marks",
    "quarters",
    "rate_figure",
    "slots_figure",
    "smooth_step_figure",
]

Record = Mapping[str, Any]
_QUARTERS = ("start", "1/4", "1/2", "3/4", "end")
_FEW_POINTS = 20  # are marked on their line
_LEGEND_WORDS = 5  # of a line


def quarters(curve: Sequence[Record]) -> list[tuple[str, float]]:
    """Read gamma at the start, the quarters and the end of a training; neighbours of equal gamma are put together.

    Args:
        curve: points with `step` and `gamma`, by rising step.

    Example:
        >>> quarters([{"step": 0, "gamma": 10.0}, {"step": 50, "gamma": 5.0}, {"step": 100, "gamma": 5.0}])
        [('start', 10.0), ('1/4 to end', 5.0)]
    """
    steps, last = [point["step"] for point in curve], curve[-1]["step"]
    read = [curve[int(np.searchsorted(steps, last * i / 4))]["gamma"] for i in range(5)]
    found: list[tuple[str, float]] = []
    for label, gamma in zip(_QUARTERS, read, strict=True):
        if found and found[-1][1] == gamma:
            found[-1] = (f"{found[-1][0].partition(' to ')[0]} to {label}", gamma)
        else:
            found.append((label, gamma))
    return found


def _legend(axes: Axes, marks: Sequence[tuple[int, str]]) -> None:
    """Put names of colours above the panel."""
    lines = -(-len(marks) // _LEGEND_WORDS)
    axes.set_position((0.17, 0.15, 0.8, 0.81 - 0.07 * lines))
    for series, text in marks:
        axes.plot([], [], color=_colour(series), linewidth=6, solid_capstyle="butt", label=text)
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=-(-len(marks) // lines), frameon=False, handlelength=0.8,
        columnspacing=1.2, handletextpad=0.4, borderpad=0.2,
    )  # fmt: skip


def gamma_figure(name: str, curve: Sequence[Record]) -> str:
    """Draw the width of the gate function over training.

    Args:
        name: prefix of ids, unique on the page.
        curve: points with `step` and `gamma`.
    """
    line = Line(0, [point["step"] for point in curve], [point["gamma"] for point in curve])

    def draw(axes: Axes) -> None:
        _training(axes, [line], "gamma, width of the gate function", mark=len(curve) <= _FEW_POINTS)
        axes.set_ylim(bottom=0)

    return _draw(name, draw)


def smooth_step_figure(name: str, curve: Sequence[Record]) -> str:
    """Draw the gate function f_D at the start, the quarters and the end of training. APEM paper, figure 5.

    Args:
        name: prefix of ids, unique on the page.
        curve: points with `step` and `gamma`.
    """
    import torch

    from funnelcast.layers import smooth_step  # here, so that a page without gates does not load torch

    widths = quarters(curve)
    reach = 0.6 * max(gamma for _, gamma in widths)

    def draw(axes: Axes) -> None:
        for series, (label, gamma) in enumerate(widths):
            u = np.unique(np.concatenate([np.linspace(-reach, reach, 241), np.linspace(-gamma / 2, gamma / 2, 61)]))
            z = smooth_step(torch.from_numpy(u), torch.tensor(gamma, dtype=torch.float64)).numpy()
            axes.plot(u, z, color=_colour(series), linewidth=1.6, label=f"{label}: {gamma:.3g}")
        axes.legend(loc="lower right", title="gamma", frameon=False, handlelength=1.2, borderpad=0.1)
        axes.set(xlim=(-reach, reach), ylim=(-0.02, 1.02), xlabel="score of the selector", ylabel="gate z")

    return _draw(name, draw)


def rate_figure(name: str, layer: Record) -> str:
    """Draw how many rows open which share of a layer's gates. APEM paper, figure 7 (a).

    Args:
        name: prefix of ids, unique on the page.
        layer: a record of `layers`.
    """
    edges = np.array(layer["rate_histogram"]["edges"])
    counts = np.array(layer["rate_histogram"]["counts"])
    middle = layer["quantiles"]["rate"]["0.5"]

    def draw(axes: Axes) -> None:
        heights = counts / counts.sum()
        axes.bar((edges[:-1] + edges[1:]) / 2, heights, np.diff(edges) * 0.9, color=_colour(0), linewidth=0)
        axes.axvline(middle, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        side = "left" if middle < 0.6 else "right"
        axes.annotate(
            f"median {_percent(round(middle, 3))}", (middle, 1.0), (5 if side == "left" else -5, -3),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha=side, va="top",
        )  # fmt: skip
        _percent_axes(axes)
        axes.set(xlim=(min(edges[0], -0.01), max(edges[-1], 1.01)), ylim=(0, 1.15 * heights.max()))
        axes.set(xlabel="selection rate: open gates of a row", ylabel="rows")

    return _draw(name, draw)


def _percent_axes(axes: Axes) -> None:
    axes.set_position((0.17, 0.15, 0.77, 0.81))  # room for the last percent
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_percent))


def slots_figure(name: str, layer: Record) -> str:
    """Draw on how many rows each gate of a layer is open, the most open one first.

    Args:
        name: prefix of ids, unique on the page.
        layer: a record of `layers`.
    """
    slots = sorted(layer["slots"], key=lambda slot: (slot["open_rate"], slot["mean"]), reverse=True)
    kinds = [1 if slot["dead"] else 2 if slot["open_rate"] == 1.0 else 0 for slot in slots]
    places = np.arange(1, len(slots) + 1)

    def draw(axes: Axes) -> None:
        axes.bar(
            places, [slot["open_rate"] for slot in slots], 0.8, color=[_colour(kind) for kind in kinds], linewidth=0
        )
        # A dead gate's bar has no height.
        dead = [place for place, kind in zip(places, kinds, strict=True) if kind == 1]
        axes.plot(dead, [0.012] * len(dead), color=_colour(1), linestyle="none", marker="o", markersize=3.5)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set(xlim=(0.25, len(slots) + 0.75), ylim=(0, 1.02), xlabel="gates, by open rate", ylabel="rows")
        axes.grid(visible=False, axis="x")
        marks = [(2, "open on every row"), (0, "open on some"), (1, "dead")]
        if set(kinds) != {0}:
            _legend(axes, [mark for mark in marks if mark[0] in kinds])

    return _draw(name, draw)


def _dots(places: NDArray[Any], colour: str) -> PathPatch:
    """Draw points [N, 2] as one path of lines without length and with round ends: a tenth of the text of markers."""
    path = Path(np.repeat(places, 2, axis=0), [Path.MOVETO, Path.LINETO] * len(places))
    path.should_simplify = False  # or lines without length would be left out
    return PathPatch(path, fill=False, edgecolor=colour, linewidth=3.4, capstyle="round", alpha=0.65)


def map_marks(points: Record, colour: str) -> list[tuple[int, str, NDArray[Any]]]:
    """List the colours of a map: number, words, and which of the N rows have it, as [N] bool.

    Args:
        points: `map` of the record.
        colour: `group`, the third that a row belongs to by its selection rate, or `reached`, its last step.

    Example:
        >>> [(words, rows.tolist()) for _, words, rows in map_marks({"reached": [0, 2, 0]}, "reached")]
        [('no step', [True, False, True]), ('step 2', [False, True, False])]
    """
    keys = np.array(points[colour])
    if colour == "group":
        found = ((0, "low"), (4, "middle"), (2, "high"))
        return [(series, f"{word} rate", keys == word) for series, word in found if word in points["group"]]
    steps = sorted(set(points["reached"]))
    return [((n - 1) % 7 if n else 7, f"step {n}" if n else "no step", keys == n) for n in steps]


def map_figure(name: str, points: Record, way: str, colour: str) -> str:
    """Draw rows as points by what the towers read of them. APEM paper, figure 7 (b).

    Args:
        name: prefix of ids, unique on the page.
        points: `map` of the record.
        way: `pca` or `tsne`.
        colour: `group`, the third that a row belongs to by its selection rate, or `reached`, its last step.
    """
    places, marks = np.array(points[way]), map_marks(points, colour)

    def draw(axes: Axes) -> None:
        for series, _, rows in marks:
            axes.add_patch(_dots(places[rows], _colour(series)))
        axes.update_datalim(places)
        axes.autoscale_view()
        axes.set(xticks=[], yticks=[])
        labels = [f"component {i}, {share:.0%} of variance" for i, share in enumerate(points["variance"], 1)]
        axes.set(**dict(zip(("xlabel", "ylabel"), labels if way == "pca" else ("t-SNE 1", "t-SNE 2"), strict=True)))
        axes.margins(0.04)
        _legend(axes, [(series, words) for series, words, _ in marks])

    return _draw(name, draw)
