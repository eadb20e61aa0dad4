"""`funnelcast tune`: a search for the options of experiments, with an equal budget each."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from funnelcast.cli.shell import Data, Set, app, console, data_folder, read_experiment
from funnelcast.errors import ConfigError


@app.command()
def tune(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment files (.toml).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the best experiments and all trials.")],
    data: Data = None,
    trials: Annotated[int, typer.Option(help="Finished trials of each experiment.")] = 12,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a trial; by default the experiments'.")] = None,
    sampler: Annotated[str, typer.Option(help="tpe, random or grid.")] = "tpe",
    workers: Annotated[int, typer.Option(help="Trials at the same time.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the sampler and of every training.")] = 0,
    prune: Annotated[bool, typer.Option("--prune/--no-prune", help="Give up trials behind the median.")] = True,
    settings: Set = [],  # noqa: B006
) -> None:
    """Search for the best options on VALID; the same command goes on after any end."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("tuning needs Optuna, which is not installed; install it by: pip install 'funnelcast[tune]'")
    from funnelcast.tuning import tune as search
    from funnelcast.tuning.result import to_table

    plans = [read_experiment(path, settings) for path in experiments]
    command = shlex.join(["funnelcast", *sys.argv[1:]])
    try:
        record = search(
            plans,
            data_folder(data, plans),
            out,
            trials=trials,
            epochs=epochs,
            sampler=sampler,
            workers=workers,
            seed=seed,
            prune=prune,
            command=command,
            announce=lambda line: console.print(line, highlight=False, soft_wrap=True),
        )
    except KeyboardInterrupt:
        Console(stderr=True).print(f"stopped; go on with: {command}", markup=False, soft_wrap=True)
        raise
    console.print(to_table(record, [plan.name for plan in plans]))
    for study in record["studies"]:
        if study["left_out"] and study["experiment"] in {plan.name for plan in plans}:
            console.print(f"{study['experiment']} cannot vary {', '.join(study['left_out'])}", soft_wrap=True)
    console.print(f"best experiments in {out}, all trials in {out / 'tuning.json'}", soft_wrap=True)
