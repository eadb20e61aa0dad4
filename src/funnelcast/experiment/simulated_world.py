"""The world behind a run's data: rebuilt from what `prepare` has recorded, so that the run can be tried in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from funnelcast.data.shards import PreparedData
from funnelcast.datasets.synthetic import Synthetic
from funnelcast.errors import ConfigError
from funnelcast.files import sha256
from funnelcast.registry import DATASETS
from funnelcast.run import Run

__all__ = ["common_world"]


def common_world(runs: Sequence[Run], data: Path | None = None) -> Synthetic:
    """Rebuild the simulator whose rows all of some runs were trained on.

    Args:
        runs: at least one.
        data: the prepared folder of all runs; None for the one that each run has recorded.

    Raises:
        ConfigError: a run's data are not of the simulator, are not here, or are those of another world.
    """
    worlds = [_options(run, data) for run in runs]
    for run, options in zip(runs[1:], worlds[1:], strict=True):
        different = sorted(key for key in worlds[0] | options if worlds[0].get(key) != options.get(key))
        if different:
            key = different[0]
            raise ConfigError(
                f"{run.folder}: should have been trained on the same simulated data as {runs[0].folder}, but option "
                f"'{key}' of its dataset is {options.get(key)!r} instead of {worlds[0].get(key)!r}"
            )
    simulator: Synthetic = DATASETS.create("synthetic", options=worlds[0])
    return simulator


def _options(run: Run, data: Path | None) -> dict[str, Any]:
    """Options of the simulator that made a run's data."""
    if run.schema.dataset != "synthetic":
        raise ConfigError(
            f"{run.folder}: should have been trained on data of the simulator, whose truth is known (dataset "
            f"'synthetic'), received dataset '{run.schema.dataset}'"
        )
    folder = data or Path(run.record["data"]["folder"])
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"{folder}: the prepared folder of {run.folder} is not here; name it by --data")
    if sha256(folder / "manifest.json") != run.record["data"]["manifest_sha256"]:
        raise ConfigError(f"{folder}: should be the prepared folder that {run.folder} was trained on, but is another")
    options: dict[str, Any] = PreparedData(folder, verify=False).manifest.get("description", {}).get("options", {})
    if not options:
        raise ConfigError(
            f"{folder}: should record the options of the simulator, but does not, since an older version or a dataset "
            "file made it; prepare 'synthetic' again and train on that"
        )
    return options
