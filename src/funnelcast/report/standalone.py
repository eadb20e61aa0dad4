"""Figures as a file of their own: panels side by side, their titles and a legend, in the colours of the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from funnelcast.report.figures import SERIES_COLOURS, line_style

__all__ = ["standalone_svg"]

_WIDTH, _HEIGHT, _GAP, _TOP, _LINE = 331, 252, 24, 34, 20  # of a panel as `figures` draws it, and around it
_CHARACTER = 7.2  # width of a letter of the legend, generously
_LIGHT = ("#ffffff", "#1d2126", "#cfd5da", "#0072b2 #d55e00 #009e73 #b5568f #b07f00 #3f9fdb #5d4fa3 #5a5f66")
_DARK = ("#14171a", "#e4e8eb", "#3a4249", "#4da6e0 #f08a3c #2fc79a #dd8fc0 #e0b13e #93d3f7 #a99be8 #a9b0b8")


def _variables(palette: tuple[str, str, str, str]) -> str:
    paper, ink, rule, series = palette
    own = "".join(f"--s{i}:{colour};" for i, colour in enumerate(series.split()[:SERIES_COLOURS]))
    return f"svg{{--paper:{paper};--ink:{ink};--rule:{rule};{own}}}"


def standalone_svg(panels: Sequence[tuple[str, str]], series: Sequence[str], note: str = "") -> str:
    """Put panels of `funnelcast.report.figures` into one SVG document that needs no page around it.

    Args:
        panels: (title, SVG element), at least one, drawn side by side.
        series: names of the legend, in the order of the series' numbers.
        note: one line below the legend.
    """
    width = len(panels) * (_WIDTH + _GAP) + _GAP
    legend, bottom = _legend(series, width, _TOP + _HEIGHT + _LINE)
    body = [legend]
    for number, (title, svg) in enumerate(panels):
        x = _GAP + number * (_WIDTH + _GAP)
        size = f'<svg x="{x}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" '
        body.append(f'<text x="{x}" y="{_TOP - 12}" font-weight="600">{escape(title)}</text>')
        body.append(re.sub(r"^<svg ", size, svg))
    if note:
        bottom += _LINE
        body.append(f'<text x="{_GAP}" y="{bottom}" font-size="11">{escape(note)}</text>')
    height = bottom + _LINE
    style = f"{_variables(_LIGHT)}@media(prefers-color-scheme:dark){{{_variables(_DARK)}}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="var(--ink)"><style>{style}</style>'
        f'<rect width="{width}" height="{height}" fill="var(--paper)"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _legend(series: Sequence[str], width: int, top: int) -> tuple[str, int]:
    """Draw names with their lines, as many beside each other as fit; returns also the last line's height."""
    parts, x, y = [], float(_GAP), top
    for number, name in enumerate(series):
        needed = 34 + _CHARACTER * len(name) + 16
        if x > _GAP and x + needed > width:
            x, y = float(_GAP), y + _LINE
        colour, dashes = line_style(number)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(
            f'<line x1="{x:g}" x2="{x + 26:g}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2.4"{dash}/>'
            f'<text x="{x + 34:g}" y="{y}">{escape(name)}</text>'
        )
        x += needed
    return "".join(parts), y
