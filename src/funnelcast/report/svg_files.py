"""Figures as SVG files of their own: white paper, real colours, title and legend inside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from funnelcast.errors import ArtifactError
from funnelcast.files import write_bytes
from funnelcast.report.charts import label
from funnelcast.report.colours import on_paper
from funnelcast.report.elements import Entry, Panel

__all__ = ["standalone", "write_figures"]

_MARGIN, _TITLE, _ENTRY = 12.0, 24.0, 16.0
_FONT = "system-ui, Helvetica, Arial, sans-serif"


def _legend(entries: Sequence[Entry], width: float, top: float) -> tuple[str, float]:
    """Write a legend in two columns; returns it with its height."""
    parts = []
    for i, entry in enumerate(entries):
        x, y = (i % 2) * width / 2, top + _ENTRY * (i // 2)
        parts.append(
            f'<line x1="{x:g}" x2="{x + 18:g}" y1="{y + 8:g}" y2="{y + 8:g}" '
            f'stroke="{entry.colour}" stroke-width="2.4"/>'
            f'<text x="{x + 24:g}" y="{y + 12:g}" font-size="10">{label(entry.name, 24)}</text>'
        )
    return "".join(parts), _ENTRY * ((len(entries) + 1) // 2)


def standalone(panel: Panel) -> str:
    """Write a figure as an SVG document.

    Args:
        panel: a figure with something to draw.
    """
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', panel.svg)
    assert box is not None
    width, height = float(box.group(1)), float(box.group(2))
    legend, below = _legend(panel.legend, width, _TITLE + height + 6)
    inner = panel.svg.replace("<svg ", f'<svg y="{_TITLE:g}" width="{width:g}" height="{height:g}" ', 1)
    inner = re.sub(r' aria-hidden="true" focusable="false"', "", inner, count=1)
    outer_width, outer_height = width + 2 * _MARGIN, _TITLE + height + below + 6 + 2 * _MARGIN
    return on_paper(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'width="{outer_width:g}" height="{outer_height:g}" viewBox="0 0 {outer_width:g} {outer_height:g}" '
        f'font-family="{_FONT}" fill="var(--ink)">'
        f"<title>{label(panel.title, 200)}</title><desc>{label(panel.alt, 600)}</desc>"
        f'<rect width="100%" height="100%" fill="var(--paper)"/>'
        f'<g transform="translate({_MARGIN:g} {_MARGIN:g})">'
        f'<text y="12" font-size="12" font-weight="600">{label(panel.title, 48)}</text>{inner}{legend}</g></svg>\n'
    )


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"{folder}: should be a folder for figures, but cannot be made: {error.strerror}"
        ) from error
    paths = []
    for panel in panels:
        if panel.svg:
            paths.append(folder / f"{panel.name}.svg")
            write_bytes(paths[-1], standalone(panel).encode())
    return paths
