"""`funnelcast calibrate`: a run -> calibrated probabilities."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer
from rich.table import Table

from funnelcast.cli.shell import OwnData, RunFolder, app, console, open_run


@app.command()
def calibrate(
    run: RunFolder,
    data: OwnData = None,
    method: Annotated[str, typer.Option(help="joint, platt, temperature or isotonic.")] = "joint",
    field: Annotated[list[str], typer.Option("--field", help="Also within its values; several times.")] = [],  # noqa: B006
) -> None:
    """Fit a calibration on VALID; write calibration.json into the run, with TEST before and after."""
    from funnelcast.calibrate import calibrate as calibrate_run

    opened, prepared, _ = open_run(run, data, "valid")
    record = calibrate_run(opened, prepared, method=cast(Any, method), fields=field)
    names = ("pcoc", "ece", "logloss", "ne", "auc")
    table = Table("step", "space", *names, title=f"{record['method']} on VALID; TEST before -> after")
    for step in record["steps"]:
        for space in ("reach", "transition"):
            table.add_row(step["name"], space, *(_change(step, space, name) for name in names))
    console.print(table)
    for part in record["fields"]:
        errors = ("field_ece", "field_rce")
        table = Table("step", "space", *errors, title=f"within the values of {part['name']}")
        for step in part["steps"]:
            for space in ("reach", "transition"):
                table.add_row(step["name"], space, *(_change(step, space, name) for name in errors))
        console.print(table)
    for step in record["steps"]:
        if step["reason"] is not None:
            console.print(f"{step['name']}: {step['reason']}", soft_wrap=True)


def _change(step: dict[str, Any], space: str, name: str) -> str:
    """Write a metric before and after."""
    values = (step[when][space][name] for when in ("before", "after"))
    return " -> ".join("-" if value is None else f"{value:.5f}" for value in values)
