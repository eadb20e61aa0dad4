"""Figures with names in them, written by hand as SVG: rows of bars and rows of dots.

They are as narrow as a phone, so that their letters stay readable there. Names come from outside: they are escaped,
and cut where they are too long; the table behind a figure has them whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Dots", "Stack", "bar_chart", "dot_chart", "funnel_chart", "label", "stack_chart", "svg_element"]

WIDTH = 360
_NAMES, _VALUES = 118, 62  # widths of the columns of names and of values
_LEFT, _RIGHT = float(_NAMES), float(WIDTH - _VALUES)
_ROW = 20


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Args:
        name: what it measures.
        value: length of the bar.
        text: the value as written at its end.
        spread: half the length of the whisker, >= 0.
    """

    name: str
    value: float
    text: str
    spread: float = 0.0


@dataclass(frozen=True)
class Dots:
    """A row of a dot chart.

    Args:
        name: what it measures.
        dots: (value, CSS colour).
        text: what stands at its end.
        mean: place of an upright mark, or None.
        interval: ends of a bar behind the dots, or None.
    """

    name: str
    dots: tuple[tuple[float, str], ...]
    text: str = ""
    mean: tuple[float, str] | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Stack:
    """A row of a chart of parts.

    Args:
        name: what is divided.
        parts: (length >= 0, CSS colour), from left to right.
        text: what stands at its end.
    """

    name: str
    parts: tuple[tuple[float, str], ...]
    text: str = ""


def label(name: str, characters: int = 18) -> str:
    """Escape a name and cut it to a length.

    Args:
        name: any text; what XML cannot hold becomes a question mark.
        characters: the longest length.

    Example:
        >>> label("<b>"), label("a_rather_long_name_of_a_field")
        ('&lt;b&gt;', 'a_rather_long_nam…')
    """
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(name.split()))
    return escape(printable if len(printable) <= characters else f"{printable[: characters - 1]}…")


def svg_element(height: float, body: str) -> str:
    """Wrap the parts of a figure.

    Args:
        height: in units of which the width has 360.
        body: SVG elements.
    """
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" aria-hidden="true" focusable="false" font-size="11" '
        f'fill="var(--ink)">{body}</svg>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", soft: bool = False) -> str:
    colour = ' fill="var(--soft)"' if soft else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{colour}>{text}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}" fill="{colour}"/>'


class _Scale:
    """Places of values between the columns of names and of values."""

    def __init__(self, low: float, high: float) -> None:
        if high <= low:
            low, high = low - 0.5, high + 0.5
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _LEFT + (_RIGHT - _LEFT) * min(1.0, max(0.0, share))


def bar_chart(bars: Sequence[Bar]) -> str:
    """Draw bars from zero, one a row, with whiskers.

    Args:
        bars: from top to bottom; values may be negative.
    """
    ends = [end for bar in bars for end in (bar.value - bar.spread, bar.value + bar.spread)]
    scale = _Scale(min(0.0, *ends), max(0.0, *ends))
    zero, parts = scale(0.0), []
    for i, bar in enumerate(bars):
        top, place = _ROW * i, scale(bar.value)
        parts += [
            _text(_NAMES - 8, top + 14, label(bar.name), anchor="end"),
            _rect(min(zero, place), top + 4, max(abs(place - zero), 0.5), 12, "var(--bar)"),
            _text(WIDTH, top + 14, escape(bar.text), anchor="end"),
        ]
        if bar.spread:
            parts.append(
                _line(scale(bar.value - bar.spread), top + 10, scale(bar.value + bar.spread), top + 10, "var(--ink)")
            )
    parts.append(_line(zero, 0, zero, _ROW * len(bars), "var(--soft)"))
    return svg_element(_ROW * len(bars), "".join(parts))


def dot_chart(rows: Sequence[Dots], low: float, high: float, texts: tuple[str, str], rule: float | None = None) -> str:
    """Draw dots on a line a row, between two ends that are named above.

    Args:
        rows: from top to bottom.
        low: value at the left end.
        high: value at the right end.
        texts: how the ends are written.
        rule: an upright line through all rows, such as the value of all rows.
    """
    scale, head = _Scale(low, high), 18
    parts = [
        _text(_LEFT, 11, escape(texts[0]), soft=True),
        _text(_RIGHT, 11, escape(texts[1]), anchor="end", soft=True),
    ]
    if rule is not None:
        parts.append(_line(scale(rule), head, scale(rule), head + _ROW * len(rows), "var(--soft)"))
    for i, row in enumerate(rows):
        middle = head + _ROW * i + 10
        parts += [
            _text(_NAMES - 8, middle + 4, label(row.name), anchor="end"),
            _line(_LEFT, middle, _RIGHT, middle, "var(--rule)"),
            _text(WIDTH, middle + 4, escape(row.text), anchor="end"),
        ]
        if row.interval is not None:
            parts.append(_line(scale(row.interval[0]), middle, scale(row.interval[1]), middle, "var(--soft)", 3))
        if row.mean is not None:
            place, colour = scale(row.mean[0]), row.mean[1]
            parts.append(_line(place, middle - 7, place, middle + 7, colour, 2))
        parts += [
            f'<circle cx="{scale(value):.1f}" cy="{middle}" r="3.4" fill="{colour}" fill-opacity=".75"/>'
            for value, colour in row.dots
        ]
    return svg_element(head + _ROW * len(rows), "".join(parts))


def stack_chart(rows: Sequence[Stack]) -> str:
    """Draw what a whole is made of, one whole a row; all rows have one scale.

    Args:
        rows: from top to bottom.
    """
    longest = max((sum(length for length, _ in row.parts) for row in rows), default=0.0) or 1.0
    parts = []
    for i, row in enumerate(rows):
        top, left = _ROW * i, _LEFT
        parts += [
            _text(_NAMES - 8, top + 14, label(row.name), anchor="end"),
            _text(WIDTH, top + 14, escape(row.text), anchor="end"),
        ]
        for length, colour in row.parts:
            width = (_RIGHT - _LEFT) * length / longest
            parts.append(_rect(left, top + 4, width, 12, colour))
            left += width
    return svg_element(_ROW * len(rows), "".join(parts))


def funnel_chart(stages: Sequence[tuple[str, float, str, tuple[str, ...]]]) -> str:
    """Draw a funnel: one bar a stage, centred, as wide as its share of all rows.

    Args:
        stages: (name, share of all rows in [0, 1], count as text, lines below the bar).
    """
    parts, top = [], 0
    for name, share, count, below in stages:
        width = max(1.5, WIDTH * share)
        parts += [
            _text(0, top + 11, label(name, 34)),
            _text(WIDTH, top + 11, escape(count), anchor="end"),
            _rect((WIDTH - width) / 2, top + 16, width, 12, "var(--bar)"),
            *(
                _text(WIDTH / 2, top + 41 + 14 * i, escape(words), anchor="middle", soft=True)
                for i, words in enumerate(below)
            ),
        ]
        top += 38 + 14 * len(below)
    return svg_element(top, "".join(parts))
