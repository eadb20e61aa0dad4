"""`funnelcast evaluate`: a run -> scores of a split."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from funnelcast.cli.shell import OwnData, RunFolder, app, console, open_run


@app.command()
def evaluate(
    run: RunFolder,
    data: OwnData = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    calibrated: Annotated[bool, typer.Option("--calibrated", help="With the run's calibration.")] = False,
) -> None:
    """Score a split and write report.json into the run."""
    from funnelcast.evaluate import evaluate as evaluate_run

    opened, prepared, part = open_run(run, data, split)
    report = evaluate_run(opened, prepared, part, calibrated=calibrated)
    columns = ("auc", "logloss", "ne", "pcoc", "ece", "brier", "gauc")
    table = Table("step", "space", "rows", "positives", *columns)
    for step in report["steps"]:
        for space in ("reach", "transition"):
            values = step[space]
            cells = ["-" if values[name] is None else f"{values[name]:.5f}" for name in columns]
            table.add_row(step["name"], space, f"{values['rows']:,}", f"{values['positives']:,}", *cells)
    console.print(table)
    if value := report["steps"][-1].get("value"):
        names = ("mean_value", "mean_expected", "mae", "rmse", "bias_ratio", "gini", "decile_error")
        numbers = (f"{name} {'-' if value[name] is None else format(value[name], '.5g')}" for name in names)
        console.print(f"value of {report['steps'][-1]['name']}: {', '.join(numbers)}", soft_wrap=True)
