"""Reads a comparison's folder and writes its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from funnelcast.errors import ArtifactError
from funnelcast.files import read_json, write_bytes
from funnelcast.report.figures import line_style
from funnelcast.report.panels import Run, Table, curve_panels, error_table, metric_table, training_panels
from funnelcast.report.words import verdict
from funnelcast.tables import columns, mean_std

__all__ = ["write_report"]

Record = Mapping[str, Any]


def write_report(folder: Path) -> Path:
    """Write the report of a comparison as one self-contained HTML page.

    The page needs no network and runs no script; every name in it is escaped.

    Args:
        folder: holds `leaderboard.json` and `runs/*/{report,curves,history}.json`; runs that are not on the
            leaderboard are left out.

    Returns:
        The path of `report.html` in the folder.

    Raises:
        ArtifactError: a file is missing, damaged or of an unknown format, or a run of the leaderboard has no folder.
    """
    leaderboard = read_json(folder / "leaderboard.json", "a leaderboard", "rows", "funnel", version=1)
    runs = _read_runs(folder, leaderboard)
    # Where a figure shows one line an experiment, the run of its first seed stands for it.
    first = [next(run for run in runs if run.series == i) for i in range(len(leaderboard["rows"]))]
    environment = Environment(
        loader=PackageLoader("funnelcast.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("template.html").render(
        board=leaderboard,
        verdict=verdict(leaderboard),
        series=[(row["experiment"], *line_style(i)) for i, row in enumerate(leaderboard["rows"])],
        funnel=_funnel(leaderboard),
        board_table=Table.of_columns([row["experiment"] for row in leaderboard["rows"]], columns(leaderboard)),
        strips=[_strip(leaderboard, i) for i in range(len(leaderboard["funnel"]))],
        steps=[_step(leaderboard, first, i) for i in range(len(leaderboard["funnel"]))],
        training=training_panels(runs, [step["name"] for step in leaderboard["funnel"]]),
        seeds_shown=sorted({run.report["seed"] for run in first}),
        environment=first[0].report.get("environment", {}),
        configurations=_configurations(folder, leaderboard),
    )
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path


def _read_runs(folder: Path, leaderboard: Record) -> list[Run]:
    """Read the runs of the leaderboard, by experiment and seed."""
    series = {row["experiment"]: i for i, row in enumerate(leaderboard["rows"])}
    wanted = {(row["experiment"], seed) for row in leaderboard["rows"] for seed in row["seeds"]}
    runs = []
    for path in sorted((folder / "runs").glob("*/report.json")):
        report = read_json(path, "a report", "experiment", "seed", version=1)
        if (report["experiment"], report["seed"]) in wanted:
            wanted.discard((report["experiment"], report["seed"]))
            curves = read_json(path.with_name("curves.json"), "the curves of a run")
            history = read_json(path.with_name("history.json"), "the history of a run")
            runs.append(Run(series[report["experiment"]], report["experiment"], report, curves, history))
    if wanted:
        experiment, seed = min(wanted)
        raise ArtifactError(
            f"{folder / 'runs'}: should hold a report of experiment '{experiment}' seed {seed}, but has none"
        )
    return sorted(runs, key=lambda run: (run.series, run.report["seed"]))


def _share(part: int, whole: int) -> str:
    return f"{part / whole * 100:.4g} %" if whole else "undefined"


def _funnel(leaderboard: Record) -> list[dict[str, Any]]:
    """Counts and rates of the steps, the opportunity first."""
    first = {
        "name": "all rows",
        "count": f"{leaderboard['row_count']:,}",
        "reach": "",
        "transition": "",
        "width": 100.0,
    }
    stages = [
        {
            "name": step["name"],
            "count": f"{step['positives']:,}",
            "reach": _share(step["positives"], step["rows"]),
            "transition": _share(step["local_positives"], step["local_rows"]),
            "width": round(100 * step["positives"] / step["rows"], 3) if step["rows"] else 0.0,
        }
        for step in leaderboard["funnel"]
    ]
    return [first, *stages]


def _strip(leaderboard: Record, step: int) -> dict[str, Any]:
    """Reach AUC of every run as places on a line from 0 to 100."""
    values = [row["steps"][step]["reach"]["auc"] for row in leaderboard["rows"]]
    known = [v for value in values for v in value["values"] if v is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)

    def place(value: float) -> float:
        return round(4 + 92 * (value - low) / (high - low), 2) if high > low else 50.0

    rows = [
        {
            "name": row["experiment"],
            "colour": line_style(i)[0],
            "dots": [place(v) for v in value["values"] if v is not None],
            "mean": None if value["mean"] is None else place(value["mean"]),
            "text": mean_std(value),
        }
        for i, (row, value) in enumerate(zip(leaderboard["rows"], values, strict=True))
    ]
    name = leaderboard["funnel"][step]["name"]
    return {"name": name, "low": f"{low:.4f}", "high": f"{high:.4f}", "rows": rows}


def _step(leaderboard: Record, runs: Sequence[Run], step: int) -> dict[str, Any]:
    """Everything that the page shows about one step."""
    found = leaderboard["funnel"][step]
    spaces = []
    for space in ("reach", "transition")[: 1 if step == 0 else 2]:
        rows, positives = (
            (found["rows"], found["positives"]) if space == "reach" else (found["local_rows"], found["local_positives"])
        )
        spaces.append(
            {
                "space": space,
                "rows": f"{rows:,}",
                "positives": f"{positives:,}",
                "metrics": metric_table(leaderboard, runs, step, space),
                "error": error_table(leaderboard, runs, step, space),
            }
        )
    return {"name": found["name"], "spaces": spaces, "panels": curve_panels(runs, step)}


def _configurations(folder: Path, leaderboard: Record) -> list[tuple[str, str]]:
    """The experiment of every row as JSON, from the runs that keep one."""
    found = {}
    for path in sorted((folder / "runs").glob("*/run.json")):
        experiment = read_json(path, "the record of a run").get("experiment", {})
        found[experiment.get("name")] = json.dumps(experiment, indent=2, ensure_ascii=False)
    return [(row["experiment"], found[row["experiment"]]) for row in leaderboard["rows"] if row["experiment"] in found]
