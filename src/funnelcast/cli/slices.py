"""`funnelcast slices`: a run -> metrics of parts of the rows."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from funnelcast.cli.shell import OwnData, RunFolder, app, console, open_run

_SHOWN_GAPS = 10
_BY_CHANCE = 0.0228  # share of a normal distribution that lies two standard deviations or more below its mean


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cells(steps: list[dict[str, Any]]) -> list[str]:
    """Reach AUC and PCOC of every step; from the second one on its transition AUC as well."""
    cells = []
    for i, step in enumerate(steps):
        transition = [_number(step["transition"]["auc"])] if i else []
        cells += [_number(step["reach"]["auc"]), *transition, _number(step["reach"]["pcoc"])]
    return cells


@app.command()
def slices(
    run: RunFolder,
    by: Annotated[
        list[str],
        typer.Option(
            help="FIELD, frequency:FIELD, time:day|week|month|bins or user:train|split; may be given several times."
        ),
    ],
    data: OwnData = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    min_rows: Annotated[int, typer.Option(help="Values of a field with fewer rows are pooled.")] = 100,
    most: Annotated[int, typer.Option(help="Values of a field that stand alone.")] = 50,
) -> None:
    """Measure parts of the rows by any column; write slices.json into the run."""
    from funnelcast.slices import slices as measure

    opened, prepared, part = open_run(run, data, split)
    record = measure(opened, prepared, by, part, min_rows=min_rows, most=most)
    heads = []
    for i, step in enumerate(record["steps"]):
        transition = [f"{step['name']}\ntransition AUC"] if i else []
        heads += [f"{step['name']}\nreach AUC", *transition, f"{step['name']}\nPCOC"]
    table = Table("column", "value", "rows", *heads)
    table.add_row("", "all rows", f"{record['rows']:,}", *_cells(record["steps"]), end_section=True)
    for column in record["columns"]:
        for number, one in enumerate(column["slices"]):
            table.add_row("" if number else column["column"], one["value"], f"{one['rows']:,}", *_cells(one["steps"]))
        table.add_section()
    console.print(table)
    gaps = record["gaps"]
    chance = _BY_CHANCE * record["comparisons"]
    console.print(
        f"{len(gaps)} of {record['comparisons']} AUCs are more than two standard errors below the overall one, where "
        f"chance alone makes {chance:.1f}{'; the largest gaps:' if gaps else ''}",
        soft_wrap=True,
    )
    for gap in gaps[:_SHOWN_GAPS]:
        console.print(gap["sentence"], soft_wrap=True, highlight=False)
