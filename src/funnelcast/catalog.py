"""Runs on disk: find them, describe them, compare two of them. Reads JSON files alone, so it needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from funnelcast.config import Experiment, explain
from funnelcast.errors import ArtifactError, FunnelcastError
from funnelcast.files import read_json, sha256
from funnelcast.metrics import HIGHER_IS_BETTER, IDEAL, badness

__all__ = [
    "Difference",
    "Entry",
    "FileState",
    "MetricDifference",
    "ReportRecord",
    "RunRecord",
    "StepReport",
    "check_files",
    "compare_configurations",
    "compare_metrics",
    "find_runs",
    "flatten",
    "metrics_of",
    "read_manifest",
    "read_report",
    "read_run",
]

State = Literal["complete", "training", "broken"]
FileState = Literal["as written", "changed", "missing", "not in the manifest"]
_TRUTHS = ("error", "potential_error")
_KNOWN = {*HIGHER_IS_BETTER, *IDEAL}
# A folder with one of these is taken for a run, even if its record is gone.
_SIGNS = ("run.json", "weights.safetensors", "checkpoint.json")


class _Data(BaseModel):
    """The prepared folder of a run."""

    dataset: str = ""
    folder: str = ""
    manifest_sha256: str = ""


class RunRecord(BaseModel):
    """`run.json`.

    Args:
        experiment: what was trained.
        seed: >= 0.
        data: the prepared folder and its fingerprint.
        environment: versions and machine.
    """

    experiment: Experiment
    seed: int
    data: _Data
    environment: dict[str, Any] = {}


class StepReport(BaseModel):
    """A step of `report.json`.

    Args:
        name: of the step.
        reach: metric -> value in the entire space; errors to the truth are nested.
        transition: the same in the local space.
    """

    name: str
    reach: dict[str, Any]
    transition: dict[str, Any]


class ReportRecord(BaseModel):
    """`report.json`, as far as lists and comparisons read it.

    Args:
        dataset: its name.
        split: the split that was scored.
        rows: of the split.
        data_sha256: fingerprint of the prepared folder.
        steps: their metrics.
    """

    dataset: str = ""
    split: str
    rows: int = 0
    data_sha256: str = ""
    steps: list[StepReport]


@dataclass(frozen=True)
class Entry:
    """A run as a list shows it.

    Args:
        folder: its folder.
        state: `complete`, `training`, or `broken`.
        reason: why it is broken, else empty.
        record: its `run.json`, or None where that cannot be read.
        report: its `report.json`, or None where it is not evaluated.
    """

    folder: Path
    state: State
    reason: str = ""
    record: RunRecord | None = None
    report: ReportRecord | None = None


def read_run(folder: Path) -> RunRecord:
    """Read the record of a run.

    Args:
        folder: a run's folder.

    Raises:
        ArtifactError: there is no record, or it is damaged.
        ConfigError: its experiment has an unknown option or a wrong value.
    """
    path = folder / "run.json"
    keys = ("experiment", "seed", "data")
    content = read_json(path, "the record of a run", *keys, version=1)
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        raise explain(path, error, RunRecord) from error


def find_runs(folder: Path) -> Iterator[Entry]:
    """Describe the runs in a folder and below it, by path; a broken one comes with its reason.

    Args:
        folder: where to look; folders that may not be read are passed over.

    Raises:
        ArtifactError: there is no such folder.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: should be a folder, but does not exist")
    for place, folders, files in os.walk(folder):
        folders.sort()
        if any(sign in files for sign in _SIGNS):
            yield _entry(Path(place))


def _entry(folder: Path) -> Entry:
    """Describe one run, whatever its state."""
    record: RunRecord | None = None
    try:
        record = read_run(folder)
        manifest = read_manifest(folder)
        if lost := [name for name in manifest if not (folder / name).is_file()]:
            raise ArtifactError(f"{folder / lost[0]}: is missing")
        report = read_report(folder)
    except (FunnelcastError, OSError) as error:
        return Entry(folder, "broken", str(error), record)
    return Entry(folder, "complete" if manifest else "training", "", record, report)


def read_report(folder: Path) -> ReportRecord | None:
    """Read the report of a run, or return None for a run that is not evaluated.

    Args:
        folder: a run's folder.

    Raises:
        ArtifactError: the report is damaged.
    """
    path = folder / "report.json"
    if not path.is_file():
        return None
    content = read_json(path, "a report", "split", "steps", version=1)
    try:
        return ReportRecord.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(str(explain(path, error, ReportRecord))) from error


def read_manifest(folder: Path) -> dict[str, str]:
    """Read the checksums of a run; none for a run that is still training.

    Args:
        folder: a run's folder.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    files = read_json(path, "the manifest of a run", "files", version=1)["files"]
    if not isinstance(files, dict):
        raise ArtifactError(f"{path}: 'files' should be a record of checksums, received {files!r}")
    return files


def check_files(folder: Path) -> list[tuple[str, int | None, str, FileState]]:
    """Compare the files of a run with its manifest.

    Args:
        folder: a run's folder.

    Returns:
        (name, bytes or None, SHA-256 or empty, state) of every file, those of the manifest first.

    Raises:
        ArtifactError: the manifest is damaged, or a file cannot be read.
    """
    expected = read_manifest(folder)
    names = [*expected, *sorted(p.name for p in folder.iterdir() if p.is_file() and p.name not in expected)]
    found: list[tuple[str, int | None, str, FileState]] = []
    for name in names:
        path = folder / name
        if not path.is_file():
            found.append((name, None, "", "missing"))
            continue
        try:
            digest = sha256(path)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
        state: FileState = "as written" if expected.get(name) == digest else "changed"
        found.append((name, path.stat().st_size, digest, state if name in expected else "not in the manifest"))
    return found


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Write nested records with dotted keys; lists of records get numbers, other lists stay values.

    Args:
        value: a JSON value.
        prefix: the key so far.

    Example:
        >>> flatten({"model": {"name": "ple", "hidden": [8, 4]}, "losses": [{"name": "bce"}]})
        {'model.name': 'ple', 'model.hidden': [8, 4], 'losses.0.name': 'bce'}
    """
    records = isinstance(value, list) and value and all(isinstance(part, dict) for part in value)
    items = enumerate(value) if records else value.items() if isinstance(value, dict) and value else None
    if items is None:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, part in items:
        found |= flatten(part, f"{prefix}.{key}" if prefix else str(key))
    return found


@dataclass(frozen=True)
class Difference:
    """A key that two runs have different values under.

    Args:
        key: with dots.
        first: value of the first run as text, or `-` where it has none.
        second: value of the second run.
    """

    key: str
    first: str
    second: str


def compare_configurations(first: RunRecord, second: RunRecord) -> list[Difference]:
    """List the keys in which two runs differ: the experiment, the seed, the data and the environment.

    Args:
        first: of one run.
        second: of another.
    """
    flat = []
    for record in (first, second):
        content = record.model_dump(mode="json")
        flat.append(flatten({**content.pop("experiment"), **content}))
    keys = dict.fromkeys([*flat[0], *flat[1]])
    nothing = object()
    return [
        Difference(key, *("-" if key not in part else str(part[key]) for part in flat))
        for key in keys
        if flat[0].get(key, nothing) != flat[1].get(key, nothing)
    ]


@dataclass(frozen=True)
class MetricDifference:
    """A metric of two runs.

    Args:
        step: name of the step.
        space: `reach` or `transition`, or the kind of an error to the truth.
        metric: name of the metric.
        first: value of the first run, or None.
        second: value of the second run, or None.
        better: 1 or 2 for the better run by the metric's own direction, 0 where neither is.
    """

    step: str
    space: str
    metric: str
    first: float | None
    second: float | None
    better: Literal[0, 1, 2]


def compare_metrics(first: ReportRecord, second: ReportRecord) -> list[MetricDifference]:
    """Put every metric of two reports side by side; steps and metrics that one of them lacks have None there.

    Args:
        first: of one run.
        second: of another.
    """
    flat = [metrics_of(report) for report in (first, second)]
    rows = []
    for key in dict.fromkeys([*flat[0], *flat[1]]):
        a, b = (part.get(key) for part in flat)
        better: Literal[0, 1, 2] = 0
        if a is not None and b is not None and badness(key[2], a) != badness(key[2], b):
            better = 1 if badness(key[2], a) < badness(key[2], b) else 2
        rows.append(MetricDifference(*key, a, b, better))
    return rows


def metrics_of(report: ReportRecord) -> dict[tuple[str, str, str], float | None]:
    """Read the metrics with a known direction as (step, space, metric) -> value.

    Args:
        report: of a run; an error to the truth stands in a space of its own, such as `transition error`.
    """
    found: dict[tuple[str, str, str], float | None] = {}
    for step in report.steps:
        for space, values in (("reach", step.reach), ("transition", step.transition)):
            nested = {f"{space} {kind.replace('_', ' ')}": part for kind, part in values.items() if kind in _TRUTHS}
            for words, part in {space: values, **nested}.items():
                if isinstance(part, dict):
                    found |= {
                        (step.name, words, name): value
                        for name, value in part.items()
                        if name in _KNOWN and (value is None or isinstance(value, float | int))
                    }
    return found
