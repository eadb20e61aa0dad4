"""The colours of pages and figures, once, for light and dark."""

from __future__ import annotations

import re

__all__ = ["COLOURS", "SERIES_COLOURS", "css_colours", "on_paper", "series_colour"]

# Name of the CSS variable -> (light, dark).
COLOURS = {
    "paper": ("#ffffff", "#14171a"),
    "ink": ("#1d2126", "#e4e8eb"),
    "soft": ("#5b646e", "#9aa4ad"),
    "rule": ("#cfd5da", "#3a4249"),
    "wash": ("#f4f6f7", "#1d2226"),
    "bar": ("#8fb4cf", "#3f6c8b"),
    "s0": ("#0072b2", "#4da6e0"),
    "s1": ("#d55e00", "#f08a3c"),
    "s2": ("#009e73", "#2fc79a"),
    "s3": ("#b5568f", "#dd8fc0"),
    "s4": ("#b07f00", "#e0b13e"),
    "s5": ("#3f9fdb", "#93d3f7"),
    "s6": ("#5d4fa3", "#a99be8"),
    "s7": ("#5a5f66", "#a9b0b8"),
}
SERIES_COLOURS = 8  # experiments with a colour of their own


def series_colour(series: int | None) -> str:
    """Name the CSS colour of an experiment.

    Args:
        series: its number among the experiments that are drawn, or None for one of the others.

    Example:
        >>> series_colour(1), series_colour(None)
        ('var(--s1)', 'var(--soft)')
    """
    return "var(--soft)" if series is None else f"var(--s{series % SERIES_COLOURS})"


def css_colours(scheme: str) -> str:
    """Write the colours as CSS variables.

    Args:
        scheme: `light` or `dark`.
    """
    return " ".join(f"--{name}: {pair[scheme == 'dark']};" for name, pair in COLOURS.items())


def on_paper(svg: str) -> str:
    """Replace the CSS variables of a figure by the colours of light pages.

    Args:
        svg: an SVG element of the page.

    Example:
        >>> on_paper('<path stroke="var(--s0)"/>')
        '<path stroke="#0072b2"/>'
    """
    return re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found.group(1)][0], svg)
