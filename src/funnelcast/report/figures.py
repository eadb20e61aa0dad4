"""Figures as inline SVG.

A figure holds no text from outside: names stand in the page around it. Its colours are CSS variables of the page, so
one figure serves light and dark, and its fonts are the page's.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from funnelcast.report.cleaning import STAND_INS, for_the_page
from funnelcast.report.colours import SERIES_COLOURS, series_colour

__all__ = [
    "SERIES_COLOURS",
    "Line",
    "line_style",
    "loss_figure",
    "ne_figure",
    "pr_figure",
    "reliability_figure",
    "roc_figure",
    "speed_figure",
]

_MARKED = 12  # lines whose points are marked; more marks than that hide each other
_WIDTH, _HEIGHT = 4.6, 3.5  # inches at 72 units each: the size of the view box
_INK, _RULE = (STAND_INS[f"var(--{name})"] for name in ("ink", "rule"))
_DASHES: tuple[tuple[Any, str], ...] = (("solid", ""), ((0, (5, 2)), "5 2"), ((0, (1.5, 1.5)), "1.5 1.5"))
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "funnelcast",
    "path.simplify": True,  # points closer to the line than a quarter of a unit are left out
    "path.simplify_threshold": 0.25,
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _RULE,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
}


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Args:
        series: number of the experiment, which gives the colour; None for grey.
        x: positions.
        y: heights, as many as positions.
        dashed: whether it is drawn in dashes.
    """

    series: int | None
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


def _colour(series: int | None) -> str:
    """Stand in for the page's colour of a series."""
    return STAND_INS[series_colour(series)]


def line_style(series: int) -> tuple[str, str]:
    """Name the CSS colour and the SVG dashes of a series, for a legend.

    Args:
        series: number of the experiment; the first eight have colours of their own, later ones are dashed.

    Example:
        >>> line_style(9)
        ('var(--s1)', '5 2')
    """
    return series_colour(series), _DASHES[series // SERIES_COLOURS % len(_DASHES)][1]


def _draw(name: str, draw: Callable[[Axes], None]) -> str:
    """Draw one panel and return an SVG element whose ids start with `name`."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.add_axes((0.175, 0.15, 0.805, 0.81))
        axes.grid(color=_RULE, linewidth=0.6, alpha=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0, pad=6)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return for_the_page(buffer.getvalue(), name)


def _plot(axes: Axes, line: Line, *, mark: bool = False, width: float = 1.6, steps: bool = False) -> None:
    dashes = _DASHES[(line.series or 0) // SERIES_COLOURS % len(_DASHES)][0]
    axes.plot(
        line.x,
        line.y,
        color=_colour(line.series),
        linestyle=(0, (4, 2)) if line.dashed else dashes,
        linewidth=width,
        marker="o" if mark else None,
        markersize=3.2,
        drawstyle="steps-pre" if steps else "default",
    )


def _percent(value: float, _: int | None = None) -> str:
    return f"{value * 100:.6g} %"


def _thousands(value: float, _: int | None = None) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1000:g} k" if value >= 1000 else f"{value:g}"


def roc_figure(name: str, lines: Sequence[Line]) -> str:
    """Draw ROC curves.

    Args:
        name: prefix of ids, unique on the page.
        lines: one an experiment; x false positive rate, y true positive rate.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, alpha=0.4)
        for line in lines:
            _plot(axes, line)
        axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="false positive rate", ylabel="true positive rate")

    return _draw(name, draw)


def pr_figure(name: str, lines: Sequence[Line], base_rate: float | None) -> str:
    """Draw precision over recall, in steps.

    Args:
        name: prefix of ids, unique on the page.
        lines: one an experiment; x recall, y precision.
        base_rate: precision of a model without skill, or None when it is not known.
    """

    def draw(axes: Axes) -> None:
        if base_rate is not None:
            axes.axhline(base_rate, color=_INK, linewidth=0.8, alpha=0.4)
        for line in lines:
            _plot(axes, line, width=1.3, steps=True)
        # Few rows make the left end jump to 1, which would press the rest to the floor.
        settled = [y for line in lines for x, y in zip(line.x, line.y, strict=True) if x >= 0.02]
        top = min(1.005, 1.08 * max([*settled, base_rate or 0.0, 0.001]))
        axes.set(xlim=(0, 1), ylim=(0, top), xlabel="recall", ylabel="precision")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))

    return _draw(name, draw)


def reliability_figure(name: str, lines: Sequence[Line], bars: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Draw observed rate over mean prediction; both axes are logarithmic where the rates are small.

    Args:
        name: prefix of ids, unique on the page.
        lines: one an experiment; x mean prediction, y observed rate.
        bars: for each line the interval of every point; empty for a line without.
    """
    points = [value for line in lines for value in (*line.x, *line.y) if value > 0]
    logarithmic = bool(points) and max(points) < 0.25

    def draw(axes: Axes) -> None:
        low, high = (min(points) / 1.6, max(points) * 1.6) if logarithmic else (0.0, max([*points, 0.01]) * 1.05)
        axes.plot([low, high], [low, high], color=_INK, linewidth=0.8, alpha=0.4)
        for line, intervals in zip(lines, bars, strict=True):
            kept = [i for i, height in enumerate(line.y) if height > 0 or not logarithmic]
            for i in kept if intervals else ():
                bottom, top = intervals[i]
                limits = [max(bottom, low), min(top, high)]
                axes.plot([line.x[i]] * 2, limits, color=_colour(line.series), linewidth=1, alpha=0.35)
            points_kept = replace(line, x=[line.x[i] for i in kept], y=[line.y[i] for i in kept])
            _plot(axes, points_kept, mark=True, width=1.0)
        if logarithmic:
            axes.set(xscale="log", yscale="log")
            wide = high / low > 30
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
                axis.set_minor_formatter(NullFormatter())
        else:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_percent))
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="mean prediction", ylabel="observed rate")

    return _draw(name, draw)


def ne_figure(name: str, lines: Sequence[Line]) -> str:
    """Draw the normalised entropy on VALID over training steps.

    Args:
        name: prefix of ids, unique on the page.
        lines: one a run; x training step, y normalised entropy.
    """
    mark = len(lines) <= _MARKED
    return _draw(name, lambda axes: _training(axes, lines, "VALID normalised entropy", mark=mark))


def loss_figure(name: str, lines: Sequence[Line]) -> str:
    """Draw the loss on TRAIN over training steps.

    Args:
        name: prefix of ids, unique on the page.
        lines: one a run; x training step, y mean loss since the last point.
    """
    return _draw(name, lambda axes: _training(axes, lines, "TRAIN loss", mark=False))


def _training(axes: Axes, lines: Sequence[Line], label: str, *, mark: bool) -> None:
    for line in lines:
        _plot(axes, line, mark=mark, width=1.1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.set(xlabel="training step", ylabel=label)
    axes.set_xlim(left=0)


def speed_figure(name: str, points: Sequence[tuple[int | None, float, float]], label: str) -> str:
    """Draw a score over a speed, one point an experiment, on a logarithmic axis of speed.

    Args:
        name: prefix of ids, unique on the page.
        points: (number of the experiment or None, rows a second > 0, score).
        label: what the score is.
    """

    def draw(axes: Axes) -> None:
        for series, speed, score in points:
            axes.plot([speed], [score], "o", color=_colour(series), markersize=7)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        speeds = [speed for _, speed, _ in points]
        axes.set(xlim=(min(speeds) / 1.5, max(speeds) * 1.5), xlabel="rows a second, training", ylabel=label)

    return _draw(name, draw)
