"""`funnelcast export`: a run -> a bundle for serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import RunFolder, app, console


@app.command()
def export(
    run: RunFolder,
    bundle: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    target: Annotated[str, typer.Option("--to", help="onnx or torch.")] = "onnx",
    calibrated: Annotated[
        bool, typer.Option("--calibrated/--raw", help="With the run's calibration, where it has one.")
    ] = True,
) -> None:
    """Export a run: model, encoders, calibration and golden rows in one checked folder."""
    from funnelcast.export import export_run
    from funnelcast.run import Run

    opened = Run(run)
    difference = export_run(opened, target, bundle, calibrated=calibrated)
    words = "calibrated, " if calibrated and opened.calibrated else ""
    console.print(f"bundle in {bundle}: {words}golden rows within {difference:.1e} of PyTorch", soft_wrap=True)
