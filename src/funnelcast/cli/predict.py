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
) -> None:
    """Score raw rows: every step's reach and transition beside the raw columns."""
    from funnelcast.predict import predict_file
    from funnelcast.run import Run

    rows = predict_file(Run(run), source, target)
    console.print(f"scored {rows:,} rows into {target}", soft_wrap=True)
