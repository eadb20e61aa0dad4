"""`funnelcast explain`: a run -> which fields it lives on, and which step loses the customer."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from funnelcast.cli.shell import OwnData, RunFolder, app, console, open_run


def _effect(value: dict[str, Any]) -> str:
    from funnelcast.tables import mean_std

    return mean_std(value, 5)


def _importance_table(record: dict[str, Any]) -> Table:
    """Drop of the AUC of every step, and the rise of the last one's log-loss."""
    names = [step["name"] for step in record["baseline"]]
    heads = [
        f"{name}\n{space} AUC drop" for i, name in enumerate(names) for space in ("reach", "transition")[: 1 + (i > 0)]
    ]
    table = Table("field", *heads, f"{names[-1]}\nlog-loss rise")
    for field in record["fields"]:
        cells = []
        for i, step in enumerate(field["steps"]):
            cells += [_effect(step[space]["auc_drop"]) for space in ("reach", "transition")[: 1 + (i > 0)]]
        table.add_row(field["name"], *cells, _effect(field["steps"][-1]["reach"]["logloss_rise"]))
    return table


def _decomposition_table(record: dict[str, Any]) -> Table:
    """Share of the loss, and conversions gained by a fixed and by a raised step, of every segment."""
    names = [step["name"] for step in record["overall"]["steps"]]
    heads = [f"{name}\n{word}" for name in names for word in ("share", "fixed", "raised")]
    table = Table("column", "value", "rows", "conversions\nper 1,000", *heads)
    parts = [("", record["overall"]), *((c["column"], part) for c in record["columns"] for part in c["segments"])]
    former = ""
    for column, part in parts:
        if part["expected_per_1000"] is None:
            continue
        cells = []
        for step in part["steps"]:
            share = "-" if step["share"] is None else f"{step['share']:.1%}"
            cells += [share, f"+{step['fixed_per_1000']:.2f}", f"+{step['raised_per_1000']:.2f}"]
        table.add_row(
            "" if column == former else column,
            part["value"],
            f"{part['rows']:,}",
            f"{part['expected_per_1000']:.2f}",
            *cells,
        )
        former = column
    return table


@app.command()
def explain(
    run: RunFolder,
    data: OwnData = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    repeats: Annotated[int, typer.Option(help="Shuffles of each field.")] = 5,
    rows: Annotated[int, typer.Option(help="Size of the sample that is scored.")] = 100_000,
    by: Annotated[
        list[str],
        typer.Option(
            help="Cut the decomposition by a column as well, see `funnelcast slices`; may be given several times."
        ),
    ] = [],  # noqa: B006
    min_rows: Annotated[int, typer.Option(help="Values of a field with fewer rows are pooled.")] = 100,
    seed: Annotated[int, typer.Option(help="Draws the sample and the shuffles.")] = 0,
) -> None:
    """Say which fields a run lives on and which step loses the customer; write JSON into the run."""
    from funnelcast.explain import explain as explain_run

    opened, prepared, part = open_run(run, data, split)
    found = explain_run(opened, prepared, part, repeats=repeats, rows=rows, seed=seed, columns=by, min_rows=min_rows)
    importance = found.importance
    console.print(_importance_table(importance))
    console.print(
        f"{importance['rows']:,} of {importance['split_rows']:,} rows of {importance['split']}, "
        f"shuffles of each field: {importance['repeats']}; sorted by the last step's reach",
        soft_wrap=True,
    )
    if found.decomposition is None:
        console.print("no decomposition: the steps form a graph, whose last step is no product of transitions")
        return
    console.print(_decomposition_table(found.decomposition))
    console.print(
        "share: part of the mean of -log p_S; fixed: conversions per 1,000 rows gained if every row took the step; "
        "raised: if none were below the segment's best quarter. Both follow the model, not an experiment.",
        soft_wrap=True,
    )
    steps = [step for step in found.decomposition["overall"]["steps"] if step["share"] is not None]
    if steps:
        worst = max(steps, key=lambda step: step["share"])
        console.print(f"{worst['name']} loses most customers: {worst['share']:.1%} of the loss", soft_wrap=True)
