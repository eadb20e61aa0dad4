"""`funnelcast efficiency`: speed and memory of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import Data, Set, app, console, data_folder, read_experiment
from funnelcast.errors import DataError


@app.command()
def efficiency(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment files (.toml).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for efficiency.json, efficiency.md and efficiency.svg.")],
    data: Data = None,
    steps: Annotated[int, typer.Option(help="Training steps of a turn.")] = 40,
    turns: Annotated[int, typer.Option(help="Turns that count.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads; with one, CPU time is measured.")] = 1,
    settings: Set = [],  # noqa: B006
) -> None:
    """Measure speed and memory of models, all in one alternating run."""
    from funnelcast.efficiency.measure import measure
    from funnelcast.efficiency.page import to_rich_table, write_efficiency

    plans = [read_experiment(path, settings) for path in experiments]
    record = measure(
        plans,
        data_folder(data, plans),
        steps=steps,
        turns=turns,
        threads=threads,
        announce=lambda line: console.print(line, highlight=False, soft_wrap=True),
    )
    write_efficiency(record, out)
    if record["rows"]:
        console.print(to_rich_table(record))
        console.print(f"result in {out / 'efficiency.md'}, figure in {out / 'efficiency.svg'}", soft_wrap=True)
    if record["failures"]:
        reasons = "; ".join(f"{failure['experiment']}: {failure['reason']}" for failure in record["failures"])
        count = len(record["failures"])
        raise DataError(f"all {len(plans)} experiments should be measured, but {count} failed: {reasons}")
