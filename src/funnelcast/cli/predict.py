"""`funnelcast predict`: raw rows -> probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import RunFolder, app, console


@app.command()
def predict(
    run: RunFolder,
    source: Annotated[Path, typer.Argument(help="Parquet file of raw rows.")],
    target: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    calibrated: Annotated[
        bool, typer.Option("--calibrated/--raw", help="With the run's calibration, where it has one.")
    ] = True,
) -> None:
    """Score raw rows: every step's reach and transition beside the raw columns."""
    from funnelcast.predict import predict_file
    from funnelcast.run import Run

    opened = Run(run)
    rows = predict_file(opened, source, target, calibrated=calibrated)
    words = ", calibrated" if calibrated and opened.calibrated else ""
    console.print(f"scored {rows:,} rows into {target}{words}", soft_wrap=True)
