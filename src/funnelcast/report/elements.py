"""What a page is made of: sections of groups of figures and tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funnelcast.tables import Column

__all__ = ["Cell", "Entry", "Group", "Panel", "Record", "Section", "Table", "isolate", "number", "percent"]

Record = Mapping[str, Any]
_BIDIRECTIONAL = {"R", "AL", "AN", "RLE", "RLO", "LRE", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"}


def isolate(name: str) -> str:
    r"""Keep a name that runs from right to left from turning the sentence around it.

    Args:
        name: any text from outside.

    Example:
        >>> isolate("click"), isolate("\u202eevil") == "\u2068\u202eevil\u2069"
        ('click', True)
    """
    if not any(unicodedata.bidirectional(character) in _BIDIRECTIONAL for character in name):
        return name
    return f"\u2068{name}\u2069"


def percent(value: float, digits: int = 4) -> str:
    """Write a share in percent.

    Args:
        value: a share.
        digits: significant digits.

    Example:
        >>> percent(0.012345)
        '1.234 %'
    """
    return f"{value * 100:.{digits}g} %"


def number(value: float | None, digits: int = 4, sign: str = "") -> str:
    """Write a number with fixed digits after the point, or say that there is none.

    Args:
        value: the number, or None.
        digits: after the point.
        sign: `+` writes the sign of positive numbers as well.

    Example:
        >>> number(0.5), number(None), number(0.25, 2, "+")
        ('0.5000', 'undefined', '+0.25')
    """
    return "undefined" if value is None else f"{value:{sign}.{digits}f}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: what it says.
        best: whether it holds the best value of its column.
        small: further lines in small letters.
        mark: marks of significance.
    """

    text: str
    best: bool = False
    small: str = ""
    mark: str = ""

    @classmethod
    def of(cls, text: str, best: bool = False, small: str = "", mark: str = "") -> Cell:
        """Make a cell whose spread over seeds, after `±`, stands on the second line.

        Args:
            text: what it says.
            best: whether it holds the best value of its column.
            small: goes below the spread, on a line of its own.
            mark: marks of significance.
        """
        value, _, spread = text.partition(" ±")
        return cls(value, best, "\n".join(part for part in (f"±{spread}" if spread else "", small) if part), mark)


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its name.

    Args:
        heads: titles of the columns.
        rows: cells.
        notes: sentences below it.
        filtered: what the rows are, when the page offers to filter them by name, else empty.
    """

    heads: list[str]
    rows: list[list[Cell]]
    notes: tuple[str, ...] = ()
    filtered: str = ""

    @classmethod
    def of_columns(cls, names: Sequence[str], columns: Sequence[Column], notes: tuple[str, ...] = ()) -> Table:
        """Put columns beside the names of experiments.

        Args:
            names: one a row.
            columns: one cell a row each.
            notes: sentences below it.
        """
        rows = [
            [Cell(name), *(Cell.of(column.texts[i], i in column.best) for column in columns)]
            for i, name in enumerate(names)
        ]
        return cls(["experiment", *(column.head for column in columns)], rows, notes)

    @classmethod
    def of_text(cls, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: tuple[str, ...] = ()) -> Table:
        """Make a table without marks.

        Args:
            heads: titles of the columns.
            rows: cells.
            notes: sentences below it.
        """
        return cls(list(heads), [[Cell(text) for text in row] for row in rows], notes)


@dataclass(frozen=True)
class Entry:
    """A line of a legend.

    Args:
        name: what the colour stands for.
        colour: a CSS colour of the page, such as `var(--s0)`.
        dashes: of its line, as SVG writes them, or empty for a solid one.
    """

    name: str
    colour: str
    dashes: str = ""


@dataclass(frozen=True)
class Panel:
    """A figure.

    Args:
        name: unique on the page; also the stem of its SVG file.
        title: what it shows.
        svg: an SVG element, or empty when there is nothing to draw.
        alt: the figure in a sentence.
        note: what a reader should know.
        table: the numbers behind it.
        legend: what its colours stand for.
    """

    name: str
    title: str
    svg: str
    alt: str
    note: str
    table: Table
    legend: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Group:
    """Part of a section.

    Args:
        title: its heading, or empty.
        note: what a reader should know first.
        legend: what the colours of its figures stand for, where all share them.
        panels: figures.
        tables: tables below the figures.
        folded: whether it is shown on demand only.
        source: a text shown as it is, such as a configuration.
    """

    title: str = ""
    note: str = ""
    legend: tuple[Entry, ...] = ()
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: bool = False
    source: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        name: its anchor.
        title: its heading.
        link: its name in the row of links at the top.
        note: what a reader should know first.
        words: (term, sentences) pairs.
        groups: its parts.
    """

    name: str
    title: str
    link: str
    note: str = ""
    words: tuple[tuple[str, str], ...] = ()
    groups: tuple[Group, ...] = ()

    @property
    def panels(self) -> list[Panel]:
        """All its figures."""
        return [panel for group in self.groups for panel in group.panels]
