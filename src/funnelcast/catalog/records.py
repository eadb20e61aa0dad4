"""The JSON files of a run, read and checked; nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from funnelcast.config import Experiment, explain
from funnelcast.errors import ArtifactError
from funnelcast.files import read_json

__all__ = ["ReportRecord", "RunRecord", "StepReport", "read_manifest", "read_report", "read_run"]


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
