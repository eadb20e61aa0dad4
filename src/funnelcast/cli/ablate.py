"""`funnelcast ablate`: the complete model against its variants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.compare import show_comparison
from funnelcast.cli.shell import Data, Set, app, console, data_folder, read_experiment


@app.command()
def ablate(
    experiment: Annotated[Path, typer.Argument(help="An experiment file (.toml) of the complete model.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the table, the report and the runs.")],
    data: Data = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at the same time.")] = 1,
    settings: Set = [],  # noqa: B006
) -> None:
    """Train a model and all variants of its class; gains refer to the complete model."""
    from funnelcast.ablate import ablate as compare_variants

    plan = read_experiment(experiment, settings)
    board = compare_variants(
        plan,
        data_folder(data, [plan]),
        out,
        seeds=seeds,
        jobs=jobs,
        announce=lambda line: console.print(line, highlight=False),
    )
    show_comparison(board, out)
