"""The bar shows rows, speed and a note on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from funnelcast.progress import RowProgress


def test_a_terminal_sees_rows_and_note() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with RowProgress("train shared_bottom seed 12", 2000, console) as progress:
        progress.advance(1000, "best NE 0.87654")
        progress.advance(1000)
    text = out.getvalue()
    assert "train shared_bottom seed 12" in text and "100%" in text and "rows/s" in text and "best NE 0.87654" in text


def test_brackets_in_a_title_are_text() -> None:
    out = io.StringIO()
    with RowProgress("train a[/b] [red]", 10, Console(file=out, force_terminal=True, width=120)) as progress:
        progress.advance(10, "[/]")
    assert "train a[/b] [red]" in out.getvalue()


def test_a_pipe_sees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with RowProgress("train mine", None) as progress:
        progress.advance(10)
    assert capsys.readouterr() == ("", "")
