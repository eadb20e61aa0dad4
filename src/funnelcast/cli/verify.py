"""`funnelcast verify`: theorems 2.1 and 3.1, by enumeration and by simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from funnelcast.cli.shell import app, console


@app.command()
def verify(
    cells: Annotated[int, typer.Option(help="Values of x in the random world.")] = 200,
    steps: Annotated[int, typer.Option(help="Steps of the funnel, at least 2.")] = 3,
    rows: Annotated[int, typer.Option(help="Simulated rows of each space.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Draws the world and the rows.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Check the APEM paper's theorems 2.1 and 3.1; exit code 1 where an equality fails."""
    from funnelcast.files import write_json
    from funnelcast.theorems import random_world
    from funnelcast.theorems import verify as verify_theorems

    record = verify_theorems(random_world(cells, steps, seed), rows, seed)
    heads = ("value", "difference", "simulated", "difference", "standard error", "z")
    table = Table("theorem", "step", "loss", "side", *heads)
    for check in record["checks"]:
        for number, side in enumerate(check["sides"]):
            place = (check["theorem"], str(check["step"]), check["loss"]) if number == 0 else ("", "", "")
            exact = (f"{side['value']:.6f}", "" if number == 0 else f"{side['difference']:.1e}")
            error = side["standard_error"]
            off = "" if error is None else f"{side['simulated_difference']:+.6f}"
            z = "" if not error else f"{side['simulated_difference'] / error:+.1f}"
            spread = "" if error is None else f"{error:.6f}"
            table.add_row(*place, side["side"], *exact, f"{side['simulated']:.6f}", off, spread, z)
    console.print(table)
    failed = [c for c in record["checks"] if not (c["holds_exactly"] and c["holds_in_simulation"])]
    differing = sum(check["unweighted_differs"] for check in record["checks"])
    console.print(
        f"{len(record['checks']) - len(failed)} of {len(record['checks'])} equalities hold with the weights, to "
        f"{record['tolerance']:g} by enumeration and {record['largest_z']:g} standard errors by simulation; without "
        f"weights {differing} are broken",
        soft_wrap=True,
    )
    if out is not None:
        write_json(out, record)
    if failed:
        raise typer.Exit(1)
