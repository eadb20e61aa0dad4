"""Figures as SVG files of their own: white paper, real colours, titles and legend inside."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape
from pathlib import Path

from funnelcast.files import make_folder, write_bytes
from funnelcast.report.charts import label
from funnelcast.report.colours import on_paper
from funnelcast.report.elements import Entry, Panel

__all__ = ["svg_document", "write_figures"]

_GAP, _TOP, _LINE = 24.0, 34.0, 18.0  # around figures, above them for a title, and of a line of text below them
_CHARACTER, _SMALL_CHARACTER = 7.2, 6.0  # width of a letter of the legend and of the note, generously
_FONT = "system-ui, Helvetica, Arial, sans-serif"


def svg_document(figures: Sequence[tuple[str, str]], legend: Sequence[Entry], alt: str, note: str = "") -> str:
    """Put figures side by side into one SVG document that needs no page around it.

    Names are cut where they are too long.

    Args:
        figures: (title, SVG element of the page) of each, at least one, with ids that no two of them share.
        legend: what the colours stand for, below the figures.
        alt: the document in a sentence, for those who cannot see it.
        note: a sentence below the legend.

    Example:
        >>> from funnelcast.report.charts import Bar, bar_chart
        >>> text = svg_document([("Sales & more", bar_chart([Bar("May", 3.0, "3")]))], (), "One bar.")
        >>> "<desc>One bar.</desc>" in text, "Sales &amp; more" in text, "var(" in text
        (True, True, False)
    """
    body, x, tallest = [], _GAP, 0.0
    for title, svg in figures:
        width, height = _size(svg)
        body.append(f'<text x="{x:g}" y="{_TOP - 12:g}" font-weight="600">{label(title, 48)}</text>')
        body.append(_placed(svg, f'x="{x:g}" y="{_TOP:g}" width="{width:g}" height="{height:g}"'))
        x, tallest = x + width + _GAP, max(tallest, height)
    names, bottom = _legend(legend, x, _TOP + tallest)
    body.append(names)
    for line in textwrap.wrap(note, int((x - 2 * _GAP) / _SMALL_CHARACTER)):
        bottom += _LINE
        body.append(f'<text x="{_GAP:g}" y="{bottom:g}" font-size="11">{escape(line)}</text>')
    height = bottom + _GAP
    return on_paper(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'width="{x:g}" height="{height:g}" viewBox="0 0 {x:g} {height:g}" '
        f'font-family="{_FONT}" font-size="12" fill="var(--ink)">'
        f"<title>{label(', '.join(title for title, _ in figures), 200)}</title><desc>{label(alt, 600)}</desc>"
        '<rect width="100%" height="100%" fill="var(--paper)"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _size(svg: str) -> tuple[float, float]:
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    return float(box.group(1)), float(box.group(2))


def _placed(svg: str, place: str) -> str:
    """Give an element of the page a place; older programs read links by their former name only."""
    svg = svg.replace("<svg ", f'<svg {place} overflow="visible" ', 1).replace(
        ' aria-hidden="true" focusable="false"', "", 1
    )
    return svg.replace(' href="#', ' xlink:href="#')


def _legend(entries: Sequence[Entry], width: float, top: float) -> tuple[str, float]:
    """Write names with their lines, as many beside each other as fit; returns also the height of the last line."""
    parts, x, y = [], _GAP, top + _LINE if entries else top
    for entry in entries:
        name = label(entry.name, int((width - 2 * _GAP - 34) / _CHARACTER))
        needed = 34 + _CHARACTER * min(len(entry.name), len(name)) + 16
        if x > _GAP and x + needed > width:
            x, y = _GAP, y + _LINE
        dashes = f' stroke-dasharray="{entry.dashes}"' if entry.dashes else ""
        parts.append(
            f'<line x1="{x:g}" x2="{x + 26:g}" y1="{y - 4:g}" y2="{y - 4:g}" '
            f'stroke="{entry.colour}" stroke-width="2.4"{dashes}/>'
            f'<text x="{x + 34:g}" y="{y:g}">{name}</text>'
        )
        x += needed
    return "".join(parts), y


def write_figures(panels: Sequence[Panel], folder: Path) -> list[Path]:
    """Write figures as SVG files, named after the panels; a panel without a figure is left out.

    Args:
        panels: the figures of a page.
        folder: is made if it does not exist; files of the same name are replaced.

    Returns:
        The files.

    Raises:
        ArtifactError: the folder cannot be made or a file cannot be written.
    """
    make_folder(folder)
    paths = []
    for panel in panels:
        if panel.svg:
            paths.append(folder / f"{panel.name}.svg")
            document = svg_document([(panel.title, panel.svg)], panel.legend, panel.alt)
            write_bytes(paths[-1], document.encode())
    return paths
