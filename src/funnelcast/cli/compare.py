"""`funnelcast compare`: models x seeds -> table and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from funnelcast.cli.shell import Data, Set, Track, app, console, data_folder, read_experiment


def show_comparison(board: dict[str, Any], out: Path) -> None:
    """Print a leaderboard and where it stands.

    Args:
        board: from `compare`.
        out: the folder it was written to.
    """
    from funnelcast.leaderboard import error_table, to_rich_table
    from funnelcast.published import published_table

    console.print(to_rich_table(board))
    for further in (error_table(board), published_table(board)):
        if further is not None:
            console.print(further)
    console.print(f"table and report in {out / 'report.html'}", soft_wrap=True)


@app.command()
def compare(
    experiments: Annotated[list[Path], typer.Argument(help="Experiment files (.toml).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the table, the report and the runs.")],
    data: Data = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at the same time.")] = 1,
    settings: Set = [],  # noqa: B006
    track: Track = [],  # noqa: B006
) -> None:
    """Train models x seeds and write leaderboard and report."""
    from funnelcast.compare import compare as compare_experiments
    from funnelcast.tracking import export, open_trackers

    trackers = open_trackers(track)
    plans = [read_experiment(path, settings) for path in experiments]
    folder = data_folder(data, plans)
    board = compare_experiments(
        plans, folder, out, seeds=seeds, jobs=jobs, announce=lambda line: console.print(line, highlight=False)
    )
    for name, seed in ((row["experiment"], seed) for row in board["rows"] for seed in row["seeds"] if trackers):
        export(out / "runs" / f"{name}-seed{seed}", trackers)
    if trackers:
        console.print(f"exported every run to {', '.join(track)}", soft_wrap=True)
    show_comparison(board, out)
