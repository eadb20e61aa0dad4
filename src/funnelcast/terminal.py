"""The leaderboard as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from funnelcast.tables import ERROR_NOTE, columns, error_columns, footnotes

__all__ = ["error_table", "to_rich_table"]

Record = Mapping[str, Any]


def to_rich_table(leaderboard: Record) -> Table:
    """Write the leaderboard as a table for the terminal; the best value of each column is bold.

    A step's gain and intervals stand below its AUC, so that three steps fit into 120 columns.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    title = f"{leaderboard['dataset']}, {leaderboard['split']}, {leaderboard['row_count']:,} rows"
    caption = Text("\n".join(footnotes(leaderboard)))
    table = Table(
        title=Text(title), caption=caption, title_justify="left", caption_justify="left", box=None, header_style="dim"
    )
    table.padding = (0, 1, 0, 0)
    table.add_column("experiment", overflow="fold")
    errors = {column.head for column in error_columns(leaderboard)}  # in a table of their own, for want of width
    shown = [column for column in columns(leaderboard) if column.head not in errors]
    gains = {column.head.removesuffix(" gain"): column for column in shown if column.head.endswith(" reach gain")}
    shown = [column for column in shown if column not in gains.values()]
    for column in shown:
        head = "para-\nmeters" if column.head == "parameters" else column.head
        for words in (" reach AUC", " transition AUC", " rows/s"):
            head = head.replace(words, f"\n{words.strip()}")
        table.add_column(Text(head), justify="right", overflow="fold")
    for i, row in enumerate(leaderboard["rows"]):
        cells = []
        for column in shown:
            cell = Text(column.starred(i), style="bold" if i in column.best else "")
            gain = gains.get(column.head.removesuffix(" AUC"))
            below = [*column.intervals[i : i + 1], *([gain.texts[i]] if gain else [])]
            cells.append(cell.append("".join(f"\n{line}" for line in below), style="not bold dim"))
        table.add_row(Text(row["experiment"]), *cells)
    return table


def error_table(leaderboard: Record) -> Table | None:
    """Write the errors to the truth as a table for the terminal, or return None where the truth is not known.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    shown = error_columns(leaderboard)
    if not shown:
        return None
    table = Table(title=Text(ERROR_NOTE), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("experiment", overflow="fold")
    for column in shown:
        step, aim, word = column.head.rsplit(" ", 2)
        table.add_column(Text(f"{step}\n{aim} {word}"), justify="right", overflow="fold")
    for i, row in enumerate(leaderboard["rows"]):
        cells = (Text(column.texts[i], style="bold" if i in column.best else "") for column in shown)
        table.add_row(Text(row["experiment"]), *cells)
    return table
