"""Reads what a page is about: a comparison's folder, or the folder of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from funnelcast.errors import ArtifactError
from funnelcast.files import read_json
from funnelcast.leaderboard import build_leaderboard
from funnelcast.report.colours import SERIES_COLOURS, series_colour
from funnelcast.report.elements import Entry, Record

__all__ = ["Run", "Source", "read_source"]

# What later commands leave in a run's folder; a page shows what is there.
_EXTRAS = {
    "calibration": "the calibration of a run",
    "importance": "the importance of fields",
    "slices": "the slices of a run",
    "decomposition": "the decomposition of a run",
    "gates": "the selector gates of a run",
}


@dataclass(frozen=True)
class Run:
    """The files of one run.

    Args:
        series: number of its experiment among those that are drawn; None for the others.
        experiment: name of its experiment.
        report: `report.json`.
        curves: `curves.json`.
        history: `history.json`.
        record: `run.json`, empty where it is missing.
        checksums: file -> SHA-256, of `manifest.json`.
        extras: what later commands have written, by the file's stem.
    """

    series: int | None
    experiment: str
    report: Record
    curves: Record
    history: Record
    record: Record
    checksums: Mapping[str, str]
    extras: Mapping[str, Record]

    @property
    def colour(self) -> str:
        """The CSS colour of its experiment."""
        return series_colour(self.series)


@dataclass(frozen=True)
class Source:
    """What a page is about.

    Args:
        board: the leaderboard.
        runs: by experiment and seed.
        single: whether it is one run's folder instead of a comparison.
        efficiency: `efficiency.json`, or None.
    """

    board: Record
    runs: Sequence[Run]
    single: bool
    efficiency: Record | None

    @property
    def steps(self) -> list[str]:
        """Names of the steps."""
        return [step["name"] for step in self.board["funnel"]]

    @property
    def names(self) -> list[str]:
        """Names of all experiments."""
        return [row["experiment"] for row in self.board["rows"]]

    @property
    def first(self) -> list[Run]:
        """The run of the first seed of every experiment, which stands for it where a figure has one line each."""
        return [next(run for run in self.runs if run.experiment == name) for name in self.names]

    @property
    def drawn(self) -> list[Run]:
        """Those of the first runs whose experiments have a colour."""
        return [run for run in self.first if run.series is not None]

    @property
    def legend(self) -> tuple[Entry, ...]:
        """The experiments that have a colour."""
        return tuple(Entry(run.experiment, run.colour) for run in self.drawn)

    @property
    def leader(self) -> Run:
        """The first run of the experiment with the best mean reach AUC at the last step where one is defined."""
        order = ranking(self.board)
        return next(run for run in self.first if run.experiment == order[0])

    def with_extra(self, name: str) -> list[Run]:
        """List the first runs that have an optional file, the leader in front.

        Args:
            name: stem of the file.
        """
        leader = self.leader.experiment
        return sorted((run for run in self.first if name in run.extras), key=lambda run: run.experiment != leader)


def ranking(board: Record, step: int | None = None) -> list[str]:
    """Order the experiments by mean reach AUC; those without one come last.

    Args:
        board: from `build_leaderboard`.
        step: number of the step; by default the last one at which an experiment has an AUC.
    """
    means = [[row["steps"][i]["reach"]["auc"]["mean"] for row in board["rows"]] for i in range(len(board["funnel"]))]
    if step is None:
        step = max((i for i, values in enumerate(means) if any(v is not None for v in values)), default=0)
    order = sorted(range(len(board["rows"])), key=lambda r: -(means[step][r] if means[step][r] is not None else -1.0))
    return [board["rows"][r]["experiment"] for r in order]


def choose_drawn(board: Record) -> dict[str, int]:
    """Choose the experiments that figures draw: all of up to eight, else the baseline and the best of every step.

    Args:
        board: from `build_leaderboard`.

    Returns:
        Experiment -> number of its colour, in the order of the leaderboard.
    """
    names = [row["experiment"] for row in board["rows"]]
    chosen = set(names)
    if len(names) > SERIES_COLOURS:
        orders = [ranking(board, step) for step in reversed(range(len(board["funnel"])))]
        wanted = [name for place in zip(*orders, strict=True) for name in place]
        baseline = [board["baseline"]] if board["baseline"] is not None else []
        chosen = set(list(dict.fromkeys([*baseline, *wanted]))[:SERIES_COLOURS])
    return {name: i for i, name in enumerate(name for name in names if name in chosen)}


def read_source(folder: Path) -> Source:
    """Read a comparison's folder or a run's folder.

    Args:
        folder: holds `leaderboard.json` and `runs/*/`, of which those on the leaderboard count; or `report.json`,
            `curves.json` and `history.json`.

    Raises:
        ArtifactError: a file is missing, damaged or of an unknown format, or a run of the leaderboard has no folder.
    """
    if (folder / "report.json").is_file() and not (folder / "leaderboard.json").is_file():
        report = read_json(folder / "report.json", "a report", "experiment", "seed", "steps", version=1)
        board = build_leaderboard([report])
        return Source(board, [_read_run(folder, report, {report["experiment"]: 0})], True, None)
    if not (folder / "leaderboard.json").is_file() and (folder / "run.json").is_file():
        raise ArtifactError(f"{folder}: the run has no report.json; make it with 'funnelcast evaluate {folder}'")
    board = read_json(folder / "leaderboard.json", "a leaderboard", "rows", "funnel", version=1)
    efficiency = None
    if (folder / "efficiency.json").is_file():
        efficiency = read_json(folder / "efficiency.json", "the efficiency of a comparison", "rows", version=1)
    return Source(board, _read_runs(folder, board), False, efficiency)


def _read_runs(folder: Path, board: Record) -> list[Run]:
    """Read the runs of the leaderboard, by experiment and seed."""
    series = choose_drawn(board)
    place = {row["experiment"]: i for i, row in enumerate(board["rows"])}
    wanted = {(row["experiment"], seed) for row in board["rows"] for seed in row["seeds"]}
    runs = []
    for path in sorted((folder / "runs").glob("*/report.json")):
        report = read_json(path, "a report", "experiment", "seed", version=1)
        if (report["experiment"], report["seed"]) in wanted:
            wanted.discard((report["experiment"], report["seed"]))
            runs.append(_read_run(path.parent, report, series))
    if wanted:
        experiment, seed = min(wanted)
        raise ArtifactError(
            f"{folder / 'runs'}: should hold a report of experiment '{experiment}' seed {seed}, but has none"
        )
    return sorted(runs, key=lambda run: (place[run.experiment], run.report["seed"]))


def _read_run(folder: Path, report: Record, series: Mapping[str, int]) -> Run:
    """Read the files beside a report."""
    record, manifest = folder / "run.json", folder / "manifest.json"
    extras = {
        name: read_json(folder / f"{name}.json", kind, version=1)
        for name, kind in _EXTRAS.items()
        if (folder / f"{name}.json").is_file()
    }
    return Run(
        series.get(report["experiment"]),
        report["experiment"],
        report,
        read_json(folder / "curves.json", "the curves of a run", "steps"),
        read_json(folder / "history.json", "the history of a run"),
        read_json(record, "the record of a run") if record.is_file() else {},
        read_json(manifest, "the manifest of a run", "files")["files"] if manifest.is_file() else {},
        extras,
    )
