"""`funnelcast report`: a comparison or a run -> report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import app, console


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A comparison's folder, or a run's folder.")],
    figures: Annotated[
        Path | None, typer.Option(help="Also write every figure as an SVG file into this folder.")
    ] = None,
) -> None:
    """Write report.html into a comparison or a run."""
    from funnelcast.report import write_report

    page = write_report(folder, figures)
    where = f", figures in {figures}" if figures is not None else ""
    console.print(f"report in {page}{where}", soft_wrap=True)
