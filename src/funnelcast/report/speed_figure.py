"""Speed against size of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from funnelcast.report.figures import _colour, _draw
from funnelcast.tables import short

__all__ = ["Speed", "speed_figure"]


@dataclass(frozen=True)
class Speed:
    """One model's speed.

    Args:
        series: number of the experiment, which gives the colour; the point is labelled by it, from 1.
        parameters: >= 1.
        rows_per_second: > 0.
        interval: of the rows a second.
    """

    series: int
    parameters: int
    rows_per_second: float
    interval: tuple[float, float]


def speed_figure(name: str, points: Sequence[Speed], label: str) -> str:
    """Draw rows a second over the number of parameters, both on logarithmic axes; up and to the left is better.

    Args:
        name: prefix of ids, unique on the page.
        points: one an experiment.
        label: of the rows a second.
    """

    def draw(axes: Axes) -> None:
        axes.set(xscale="log", yscale="log")
        for point in points:
            colour, x = _colour(point.series), point.parameters
            axes.plot([x, x], point.interval, color=colour, linewidth=1.4, alpha=0.5)
            axes.plot([x], [point.rows_per_second], color=colour, marker="o", markersize=6, linestyle="none")
            place = (x, point.rows_per_second)  # the number tells points apart where colours repeat
            axes.annotate(str(point.series + 1), place, xytext=(6, 3), textcoords="offset points", fontsize=9)
        sides = (
            (axes.xaxis, axes.set_xlim, [point.parameters for point in points]),
            (axes.yaxis, axes.set_ylim, [speed for point in points for speed in point.interval]),
        )
        for axis, limit, values in sides:
            limit(min(values) / 1.5, max(values) * 1.5)
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(values) / min(values) < 40 else (1.0,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(value).replace(".0", "")))
            axis.set_minor_locator(NullLocator())
        axes.set(xlabel="parameters", ylabel=label)

    return _draw(name, draw)
