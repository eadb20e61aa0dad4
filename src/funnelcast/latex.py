"""The leaderboard as a LaTeX table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funnelcast.tables import Column, columns, footnotes

__all__ = ["escape", "to_latex"]

# Every character that LaTeX reads as more than itself, and those outside ASCII that our own texts use.
_MARKS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"\textasciigrave{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "[": "{[}",
    "]": "{]}",
    "*": r"$^{*}$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
}


def escape(text: str) -> str:
    r"""Write text so that LaTeX prints it as it is; control characters become spaces.

    Args:
        text: any text; letters outside ASCII need an engine that reads UTF-8, as all do since 2018.

    Example:
        >>> print(escape("a_b & 50 %"))
        a\_b \& 50 \%
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    text = "".join(_MARKS.get(letter, letter) for letter in " ".join(printable.split()))
    for pair in ("--", "''", ",,"):  # two of these would be drawn as one other sign
        text = text.replace(pair, f"{pair[0]}{{}}{pair[1]}").replace(pair, f"{pair[0]}{{}}{pair[1]}")
    return text


def _cell(column: Column, row: int) -> str:
    """Write one cell, with its interval in a second, smaller line."""
    text = escape(column.starred(row))
    if row in column.best:
        text = rf"\textbf{{{text}}}"
    if not column.intervals:
        return text
    return rf"\shortstack[r]{{{text}\\\scriptsize {escape(column.intervals[row])}}}"


def to_latex(leaderboard: Mapping[str, Any]) -> str:
    """Write the leaderboard as a `table` of LaTeX, which needs no package; the best value of each column is bold.

    Args:
        leaderboard: from `build_leaderboard`.
    """
    shown = columns(leaderboard)
    lines = [["experiment", *(escape(column.head) for column in shown)]]
    for i, row in enumerate(leaderboard["rows"]):
        lines.append([escape(row["experiment"]), *(_cell(column, i) for column in shown)])
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    seeds = ", ".join(map(str, leaderboard["seeds"]))
    caption = (
        f"{leaderboard['dataset']}, {leaderboard['split']}, {leaderboard['row_count']:,} rows, seeds {seeds}; "
        "mean ± sample standard deviation over seeds."
    )
    notes = " ".join(escape(note) for note in [caption, *footnotes(leaderboard)])
    parts = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(shown)}}}", r"\hline", head, r"\hline"]
    parts += [*body, r"\hline", r"\end{tabular}", rf"\caption{{{notes}}}", r"\end{table}"]
    return "\n".join(parts) + "\n"
