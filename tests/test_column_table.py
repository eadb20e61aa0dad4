"""Columns beside names, for the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from funnelcast.column_table import terminal_table
from funnelcast.tables import Column


@pytest.mark.parametrize(("width", "whole"), [(61, True), (60, False)])
def test_the_names_are_as_wide_as_the_terminal_allows(width: int, whole: bool) -> None:
    # 40 letters and a blank, then 19 letters and a blank.
    table = terminal_table("speed", "model", ["n" * 40], [Column("rows/s", ["123.4 k [120, 125 k"])])
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert ("n" * 40 in text) == whole
    assert "123.4 k [120, 125 k" in text
