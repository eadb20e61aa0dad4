"""Rates of arms day by day, with their intervals as bands."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from funnelcast.report.figures import Line, _colour, _draw, _percent, _plot

__all__ = ["daily_figure"]


def daily_figure(name: str, lines: Sequence[Line], bands: Sequence[Sequence[tuple[float, float]]], label: str) -> str:
    """Draw the daily rate of every arm.

    Args:
        name: prefix of ids, unique on the page.
        lines: one an arm; x day from 1, y rate.
        bands: for each line the interval of every point.
        label: of the rates; a share is written in percent where it is `rate`.
    """

    def draw(axes: Axes) -> None:
        for line, band in zip(lines, bands, strict=True):
            low, high = zip(*band, strict=True) if band else ((), ())
            axes.fill_between(line.x, low, high, color=_colour(line.series), alpha=0.15, linewidth=0)
            _plot(axes, line, mark=True)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        number = _percent if label == "rate" else lambda value, _: f"{value:.6g}"
        axes.yaxis.set_major_formatter(FuncFormatter(number))
        axes.set(xlabel="day", ylabel=label)

    return _draw(name, draw)
