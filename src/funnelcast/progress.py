"""Progress with rows per second and time left; quiet when the output is not a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["RowProgress"]


class _Speed(TextColumn):
    """Rows per second, such as `1.2 M rows/s`."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Draw the speed of a task."""
        speed = task.finished_speed or task.speed or 0.0
        unit, divisor = ("M", 1e6) if speed >= 1e6 else ("k", 1e3) if speed >= 1e3 else ("", 1.0)
        return Text(f"{speed / divisor:.1f} {unit} rows/s".replace("  ", " "))


class RowProgress:
    """A bar that counts rows, on standard error.

    Args:
        title: what is going on.
        total: rows expected, or None when unknown.
        console: where to draw; by default standard error. Nothing is drawn unless it is a terminal.

    Example:
        >>> with RowProgress("encode", total=10) as progress:
        ...     progress.advance(10)
    """

    def __init__(self, title: str, total: int | None, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),  # takes the width that is left, so that 80 columns show all the rest
            TaskProgressColumn(),
            _Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task(title, total=total, note="")

    def advance(self, rows: int, note: str | None = None) -> None:
        """Count rows.

        Args:
            rows: rows done since the last call, >= 0.
            note: a word beside the bar, such as the best score; None keeps the last one.
        """
        self._progress.update(self._task, advance=rows)
        if note is not None:
            self._progress.update(self._task, note=note)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
