"""A table of columns, one row a name, as Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from funnelcast.tables import Column, plain

__all__ = ["markdown_table", "terminal_table"]


def markdown_table(head: str, names: Sequence[str], columns: Sequence[Column]) -> str:
    """Write columns as a Markdown table; the best value of each column is bold.

    Args:
        head: title of the names.
        names: one a row.
        columns: one cell a row each.

    Example:
        >>> print(markdown_table("model", ["a", "b"], [Column("AUC", ["0.7", "0.8"], frozenset({1}))]), end="")
        | model | AUC |
        | --- | ---: |
        | a | 0.7 |
        | b | **0.8** |
    """
    lines = [[head, *(plain(column.head) for column in columns)], ["---", *["---:"] * len(columns)]]
    for i, name in enumerate(names):
        cells = (f"**{column.texts[i]}**" if i in column.best else column.texts[i] for column in columns)
        lines.append([plain(name), *cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def terminal_table(title: str, head: str, names: Sequence[str], columns: Sequence[Column]) -> Table:
    """Write columns as a table for the terminal; the best value of each column is bold.

    Args:
        title: stands above.
        head: title of the names.
        names: one a row.
        columns: one cell a row each; a line break in a head splits it.
    """
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(Text(head), overflow="fold")
    for column in columns:
        table.add_column(Text(column.head), justify="right", overflow="fold")
    for i, name in enumerate(names):
        cells = (Text(column.texts[i], style="bold" if i in column.best else "") for column in columns)
        table.add_row(Text(name), *cells)
    return table
