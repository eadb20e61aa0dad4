"""Runs below a folder, whatever their state, and the files of one run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from funnelcast.catalog.records import ReportRecord, RunRecord, read_manifest, read_report, read_run
from funnelcast.errors import ArtifactError, FunnelcastError
from funnelcast.files import sha256

__all__ = ["Entry", "FileState", "check_files", "find_runs"]

State = Literal["complete", "training", "broken"]
FileState = Literal["as written", "changed", "missing", "not in the manifest"]
# A folder with one of these is taken for a run, even if its record is gone.
_SIGNS = ("run.json", "weights.safetensors", "checkpoint.json")


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
