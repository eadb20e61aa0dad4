"""Rates and lifts of arms day by day, with their intervals as bands."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from funnelcast.report.figures import _INK, Line, _colour, _draw, _percent, _plot

__all__ = ["daily_figure"]


_FEW = 3  # days
_SHARES = ("rate", "lift")


def daily_figure(
    name: str,
    lines: Sequence[Line],
    bands: Sequence[Sequence[tuple[float, float]]],
    label: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """Draw a daily number of every arm.

    Args:
        name: prefix of ids, unique on the page.
        lines: one an arm; x day from 1, y the number.
        bands: for each line the interval of every point; empty for a line without.
        label: of the numbers; shares are written in percent where it is `rate` or `lift`, and a lift has a line at 0.
        limits: of the vertical axis; None for all that is drawn.
    """

    def draw(axes: Axes) -> None:
        if label == "lift":
            axes.axhline(0, color=_INK, linewidth=0.8, alpha=0.4)
        for line, band in zip(lines, bands, strict=True):
            if len(band) == 1:  # an area of one point could not be seen
                axes.vlines(line.x, *band[0], color=_colour(line.series), alpha=0.5, linewidth=1.5)
            elif band:
                low, high = zip(*band, strict=True)
                axes.fill_between(line.x, low, high, color=_colour(line.series), alpha=0.15, linewidth=0)
            _plot(axes, line, mark=True)
        last = int(max((day for line in lines for day in line.x), default=1))
        if last < _FEW:  # matplotlib would choose fractions of a day
            axes.set_xlim(0.5, last + 0.5)
            axes.set_xticks(range(1, last + 1))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        number = _percent if label in _SHARES else lambda value, _: f"{value:.6g}"
        axes.yaxis.set_major_formatter(FuncFormatter(number))
        axes.set(xlabel="day", ylabel=label)
        if limits is not None:
            axes.set_ylim(limits)

    return _draw(name, draw)
