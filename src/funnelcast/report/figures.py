"""Figures as inline SVG.

A figure holds no text from outside: names stand in the page around it. Its colours are CSS variables of the page, so
one figure serves light and dark, and its fonts are the page's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

__all__ = ["SERIES_COLOURS", "Line", "line_style", "loss_figure", "ne_figure", "reliability_figure", "roc_figure"]

SERIES_COLOURS = 8
_WIDTH, _HEIGHT = 4.6, 3.5  # inches at 72 units each: the size of the view box
# Colours that matplotlib accepts and the page replaces by its own.
_INK, _RULE = "#010101", "#020202"
_DASHES: tuple[tuple[str, Any, str], ...] = (
    ("solid", "solid", ""),
    ("dashed", (0, (5, 2)), "5 2"),
    ("dotted", (0, (1.5, 1.5)), "1.5 1.5"),
)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "funnelcast",
    "path.simplify": False,
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
        series: number of the experiment, which gives colour and dashes.
        x: positions.
        y: heights, as many as positions.
    """

    series: int
    x: Sequence[float]
    y: Sequence[float]


def _colour(series: int) -> str:
    """Stand in for `var(--s<k>)` of the page."""
    return f"#03030{series % SERIES_COLOURS}"


def line_style(series: int) -> tuple[str, str]:
    """Name the CSS colour and the SVG dashes of a series, for the legend.

    Args:
        series: number of the experiment; the first eight have colours of their own, later ones are dashed.

    Example:
        >>> line_style(9)
        ('var(--s1)', '5 2')
    """
    return f"var(--s{series % SERIES_COLOURS})", _DASHES[series // SERIES_COLOURS % len(_DASHES)][2]


def _draw(name: str, draw: Callable[[Axes], None]) -> str:
    """Draw one panel and return an SVG element whose ids start with `name`."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.add_axes((0.15, 0.15, 0.82, 0.81))
        axes.grid(color=_RULE, linewidth=0.6, alpha=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=5)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(buffer.getvalue(), name)


def _for_the_page(svg: str, name: str) -> str:
    """Cut the SVG out of its document; use the page's colours and fonts; make ids unique; shorten numbers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
    svg = svg.replace(_INK, "var(--ink)").replace(_RULE, "var(--rule)")
    svg = re.sub(r"#03030(\d)", r"var(--s\1)", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found.group()), svg)
    return svg.strip()


def _plot(axes: Axes, line: Line, *, mark: bool = False, width: float = 1.6, alpha: float = 1.0) -> None:
    dashes = _DASHES[line.series // SERIES_COLOURS % len(_DASHES)][1]
    axes.plot(
        line.x,
        line.y,
        color=_colour(line.series),
        linestyle=dashes,
        linewidth=width,
        alpha=alpha,
        marker="o" if mark else None,
        markersize=3.5,
    )


def _percent(value: float, _: int | None = None) -> str:
    return f"{value * 100:.6g} %"


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


def reliability_figure(name: str, lines: Sequence[Line], bars: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Draw observed rate over mean prediction; both axes are logarithmic where the rates are small.

    Args:
        name: prefix of ids, unique on the page.
        lines: one an experiment; x mean prediction, y observed rate.
        bars: for each line the interval of every point.
    """
    points = [value for line in lines for value in (*line.x, *line.y) if value > 0]
    logarithmic = bool(points) and max(points) < 0.25

    def draw(axes: Axes) -> None:
        low, high = (min(points) / 1.6, max(points) * 1.6) if logarithmic else (0.0, max([*points, 0.01]) * 1.05)
        axes.plot([low, high], [low, high], color=_INK, linewidth=0.8, alpha=0.4)
        for line, intervals in zip(lines, bars, strict=True):
            kept = [i for i, height in enumerate(line.y) if height > 0 or not logarithmic]
            for i in kept:
                bottom, top = intervals[i]
                limits = [max(bottom, low), min(top, high)]
                axes.plot([line.x[i]] * 2, limits, color=_colour(line.series), linewidth=1, alpha=0.3)
            _plot(axes, Line(line.series, [line.x[i] for i in kept], [line.y[i] for i in kept]), mark=True, width=1.1)
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
    return _draw(name, lambda axes: _training(axes, lines, "VALID normalised entropy", mark=True))


def loss_figure(name: str, lines: Sequence[Line]) -> str:
    """Draw the loss on TRAIN over training steps.

    Args:
        name: prefix of ids, unique on the page.
        lines: one a run; x training step, y mean loss since the last point.
    """
    return _draw(name, lambda axes: _training(axes, lines, "TRAIN loss", mark=False))


def _training(axes: Axes, lines: Sequence[Line], label: str, *, mark: bool) -> None:
    for line in lines:
        _plot(axes, line, mark=mark, width=1.1, alpha=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g} k" if value >= 1000 else f"{value:g}")
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.set(xlabel="training step", ylabel=label)
    axes.set_xlim(left=0)
