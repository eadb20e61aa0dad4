"""Runs in TensorBoard and MLflow: one file a target, each of which writes a whole run at once.

A run is exported from its folder, after the training: `history.json`, `report.json` and `run.json` are the one truth,
the training loop knows of no tracker, and a resumed training leaves no point twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from funnelcast.catalog import flatten, metrics_of, read_manifest, read_report, read_run
from funnelcast.errors import ConfigError, choices
from funnelcast.files import read_json, sha256
from funnelcast.registry import TRACKERS, import_siblings

__all__ = ["Point", "TrackedRun", "Tracker", "export", "open_trackers", "read_tracked"]


@dataclass(frozen=True)
class Point:
    """A value of a curve.

    Args:
        name: of the curve, such as `train/loss` or `test/buy/reach/auc`.
        step: batches of training before it.
        value: a finite number.
    """

    name: str
    step: int
    value: float


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker gets of a run.

    Args:
        name: experiment and seed.
        dataset: its name.
        parameters: configuration with dotted keys.
        points: all curves, and the final scores at the last step.
        tags: fingerprints and state; `funnelcast.run` is the same for the same training.
    """

    name: str
    dataset: str
    parameters: dict[str, str]
    points: tuple[Point, ...]
    tags: dict[str, str]


class Tracker(Protocol):
    """Where runs go."""

    def write(self, run: TrackedRun) -> str:
        """Write a run, in place of an earlier export of the same run, and return where it is."""
        ...


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Walk over the numbers in a JSON value as (name with slashes, number)."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{name}/{key}")
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from _numbers(part, f"{name}/{place}")


def _training(history: dict[str, Any], steps: Sequence[str]) -> Iterator[Point]:
    """Read the curves of a history: TRAIN, and VALID after each epoch."""
    for point in history.get("loss", []):
        rest = {key: value for key, value in point.items() if key not in ("step", "rows")}
        yield from (Point(f"train{name}", point["step"], value) for name, value in _numbers(rest, ""))
    for epoch in history.get("epochs", []):
        values = {"mean_ne": epoch.get("valid_mean_ne"), "ne": dict(zip(steps, epoch["valid_ne"], strict=True))}
        yield from (Point(f"valid{name}", epoch["step"], value) for name, value in _numbers(values, ""))


def _history(folder: Path) -> dict[str, Any]:
    """Read the history of a run, that of its last checkpoint while it is training, else nothing."""
    if (folder / "history.json").is_file():
        return read_json(folder / "history.json", "the history of a run")
    if (folder / "checkpoint.json").is_file():
        state = read_json(folder / "checkpoint.json", "a checkpoint", "state")["state"]
        found: dict[str, Any] = state["history"]
        return found
    return {}


def read_tracked(folder: Path) -> TrackedRun:
    """Read what a tracker gets of a run; a run that is still training goes as far as its last checkpoint.

    Args:
        folder: a run's folder.

    Raises:
        ArtifactError: the folder is not a run, or a file is damaged.
    """
    record, report = read_run(folder), read_report(folder)
    schema = read_json(folder / "schema.json", "a schema", "steps")
    manifest = read_manifest(folder)
    points = list(_training(_history(folder), [step["name"] for step in schema["steps"]]))
    last = max((point.step for point in points), default=0)
    if report is not None:
        scores = ((key, value) for key, value in metrics_of(report).items() if value is not None)
        points += [
            Point(f"{report.split}/{step}/{space.replace(' ', '_')}/{metric}", last, float(value))
            for (step, space, metric), value in scores
        ]
    content = record.model_dump(mode="json")
    flat = flatten({**content.pop("experiment"), **content})
    tags = {
        "funnelcast.run": sha256(folder / "run.json"),
        "funnelcast.state": "complete" if manifest else "training",
        **{f"funnelcast.sha256.{name}": digest for name, digest in manifest.items()},
    }
    return TrackedRun(
        f"{record.experiment.name}-seed{record.seed}",
        record.data.dataset,
        {key: str(value) for key, value in flat.items()},
        tuple(points),
        tags,
    )


def open_trackers(targets: Sequence[str]) -> list[Tracker]:
    """Open trackers by name, so that a wrong name or a missing package is found before a training.

    Args:
        targets: texts such as `tensorboard=FOLDER` or `mlflow=sqlite:///FILE`.

    Raises:
        ConfigError: a text has no name and place, or a package is missing.
        UnknownNameError: no tracker has this name.
    """
    opened: list[Tracker] = []
    for target in targets:
        name, _, place = target.partition("=")
        if not name or not place:
            raise ConfigError(f"a tracker should be name=place, received '{target}'; {choices(TRACKERS.names())}")
        opened.append(TRACKERS.create(name, place, options={}))
    return opened


def export(folder: Path, trackers: Sequence[Tracker]) -> list[str]:
    """Write a run to trackers.

    Args:
        folder: a run's folder.
        trackers: from `open_trackers`.

    Returns:
        Where it is, one text a tracker.

    Raises:
        ArtifactError: the folder is not a run, or a file is damaged.
        ConfigError: a tracker cannot be written.
    """
    run = read_tracked(folder)
    return [tracker.write(run) for tracker in trackers]


import_siblings(__name__, __path__)
