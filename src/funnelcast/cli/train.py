"""`funnelcast train`: one run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from funnelcast.cli.shell import Data, Set, Track, app, console, data_folder, read_experiment


@app.command()
def train(
    experiment: Annotated[Path, typer.Argument(help="An experiment file (.toml).")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")],
    data: Data = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    settings: Set = [],  # noqa: B006
    track: Track = [],  # noqa: B006
) -> None:
    """Train one model and write its run."""
    from funnelcast.data.shards import PreparedData
    from funnelcast.tracking import export, open_trackers
    from funnelcast.train import fit

    trackers = open_trackers(track)
    plan = read_experiment(experiment, settings)
    try:
        run = fit(out, PreparedData(data_folder(data, [plan])), plan, seed=seed, resume=resume)
    except KeyboardInterrupt:
        words = ["funnelcast", *sys.argv[1:], *([] if resume else ["--resume"])]
        Console(stderr=True).print(f"stopped; go on with: {shlex.join(words)}", markup=False, soft_wrap=True)
        raise
    console.print(f"trained {run.experiment.name} in {run.folder}", soft_wrap=True)
    for place in export(out, trackers) if trackers else ():
        console.print(f"exported to {place}", soft_wrap=True)
