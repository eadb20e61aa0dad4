"""`funnelcast overlap`: can a run's propensities carry weights."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from funnelcast.cli.shell import OwnData, RunFolder, app, console, open_run


@app.command()
def overlap(
    run: RunFolder,
    data: OwnData = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
    share: Annotated[float, typer.Option(help="Smallest effective share of the local rows to accept.")] = 0.5,
) -> None:
    """Judge whether a run's propensities can carry weights; write overlap.json into the run."""
    from funnelcast.overlap import overlap as judge

    record = judge(*open_run(run, data, split), share=share)
    heads = ("all rows below", "largest weight", "effective rows", "share of local", "theorem 2.1: share of local")
    table = Table("step", "local rows", "clip", *heads)
    for step in record["steps"]:
        for candidate, theorem in zip(step["inverse_propensity"], step["theorem_2_1"], strict=True):
            numbers = (candidate["largest_weight"], candidate["effective_rows"])
            shares = (candidate["effective_share"], theorem["effective_share"])
            table.add_row(
                step["name"],
                f"{step['local_rows']:,}",
                f"{candidate['clip']:g}{' *' if candidate['clip'] == step['clip'] else ''}",
                f"{candidate['share_below']:.1%}",
                *("-" if number is None else f"{number:,.1f}" for number in numbers),
                *("-" if value is None else f"{value:.1%}" for value in shares),
            )
    console.print(table)
    console.print(f"* the smallest clip with an effective share of {share:g} or more of the local rows")
    for step in record["steps"]:
        common = step["histogram"]["overlap"]
        shared = "not defined" if common is None else f"{common:.1%}"
        console.print(
            f"{step['name']}: {step['advice']}; overlap of rows with and without {step['former']}: {shared}",
            soft_wrap=True,
        )
