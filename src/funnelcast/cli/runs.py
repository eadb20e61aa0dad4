"""`funnelcast runs`: list runs, show one, compare two, export one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from funnelcast.cli.shell import RunFolder, app, console

if TYPE_CHECKING:
    from funnelcast.catalog import ReportRecord

runs = typer.Typer(name="runs", help="List, show, compare and export runs.", no_args_is_help=True)
app.add_typer(runs)

_SAME = ("dataset", "split", "rows", "data_sha256")  # reports that differ in one of these do not compare
_STYLES = {"complete": "green", "training": "yellow", "broken": "red"}


def _number(value: object, digits: int = 5) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float | int) else "-"


def _scores_table(report: ReportRecord) -> Table:
    """Tabulate the metrics of every step in both spaces."""
    columns = ("auc", "logloss", "ne", "pcoc", "ece", "brier", "gauc")
    table = Table("step", "space", "rows", "positives", *columns, title=Text(f"scores on {report.split}"))
    for step in report.steps:
        for space, values in (("reach", step.reach), ("transition", step.transition)):
            counts = (_number(values.get("rows"), 0), _number(values.get("positives"), 0))
            table.add_row(Text(step.name), space, *counts, *(_number(values.get(name)) for name in columns))
    return table


@runs.command("list")
def list_runs(folder: Annotated[Path, typer.Argument(help="Where to look, at any depth.")]) -> None:
    """List the runs below a folder: state, model, seed, dataset, scores."""
    from funnelcast.catalog import find_runs

    table = Table("run", "state", "experiment", "model", "seed", "dataset", "split", "reach AUC")
    table.columns[0].overflow = table.columns[-1].overflow = "fold"
    count = 0
    for count, entry in enumerate(find_runs(folder), start=1):  # noqa: B007
        named = ["-"] * 4
        if entry.record is not None:
            experiment = entry.record.experiment
            named = [experiment.name, experiment.model.name, str(entry.record.seed), entry.record.data.dataset]
        report = entry.report
        values = [] if report is None else [step.reach.get("auc") for step in report.steps]
        table.add_row(
            Text(str(entry.folder.relative_to(folder))),
            Text(entry.state, _STYLES[entry.state]),
            *map(Text, named),
            Text("-" if report is None else report.split),
            Text(entry.reason or " / ".join(_number(value, 4) for value in values) or "-"),
        )
    if count:
        console.print(table)
    else:
        console.print(f"no runs in {folder}", soft_wrap=True)


@runs.command("show")
def show(run: RunFolder) -> None:
    """Show a run's configuration, scores, files and checksums."""
    from funnelcast.catalog import check_files, flatten, read_report, read_run

    record, report = read_run(run), read_report(run)
    content = record.model_dump(mode="json")
    table = Table("key", "value")
    for key, value in flatten({**content.pop("experiment"), **content}).items():
        table.add_row(Text(key), Text(str(value)))
    console.print(table)
    if report is None:
        console.print(f"not evaluated yet: funnelcast evaluate {run}", soft_wrap=True)
    else:
        console.print(_scores_table(report))
    files = Table("file", "bytes", "state", "sha256")
    for name, size, digest, state in check_files(run):
        style = "red" if state in ("changed", "missing") else ""
        files.add_row(Text(name), "-" if size is None else f"{size:,}", Text(state, style), digest or "-")
    console.print(files)


@runs.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="A run's folder.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Another run's folder.", metavar="B")],
) -> None:
    """Show in what two runs differ: configuration, and every metric with the better one marked."""
    from funnelcast.catalog import compare_configurations, compare_metrics, read_report, read_run

    console.print(f"A: {first}\nB: {second}", soft_wrap=True)
    differences = compare_configurations(read_run(first), read_run(second))
    table = Table("key", "A", "B", title="differences in configuration")
    for found in differences:
        table.add_row(Text(found.key), Text(found.first), Text(found.second))
    console.print(table if differences else "the configurations are the same")
    reports = [read_report(first), read_report(second)]
    if reports[0] is None or reports[1] is None:
        folder = first if reports[0] is None else second
        console.print(f"no scores to compare: funnelcast evaluate {folder}", soft_wrap=True)
        return
    other = [key for key in _SAME if getattr(reports[0], key) != getattr(reports[1], key)]
    if other:
        console.print(f"the metrics do not compare: the reports have another {', '.join(other)}", style="yellow")
    scores = Table("step", "space", "metric", "A", "B", "B - A", title="metrics; the better one has a star")
    for row in compare_metrics(reports[0], reports[1]):
        difference = "-" if row.first is None or row.second is None else f"{row.second - row.first:+.6f}"
        cells = [
            Text(_number(value, 6) + (" *" if row.better == place else "  "), "bold" if row.better == place else "")
            for place, value in ((1, row.first), (2, row.second))
        ]
        scores.add_row(Text(row.step), row.space, row.metric, *cells, difference)
    console.print(scores)


@runs.command("export")
def export(
    run: RunFolder,
    to: Annotated[list[str], typer.Option("--to", help="tensorboard=FOLDER or mlflow=ADDRESS; may be given twice.")],
) -> None:
    """Write a run's curves, scores and configuration to TensorBoard or MLflow."""
    from funnelcast.tracking import export as export_run
    from funnelcast.tracking import open_trackers

    for place in export_run(run, open_trackers(to)):
        console.print(f"exported to {place}", soft_wrap=True)
