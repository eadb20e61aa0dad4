"""A run's folder: one training of one experiment with one seed.

```
run.json             experiment, seed, data fingerprint, environment
schema.json          the fields and the funnel
encoders.json        what raw rows pass through
weights.safetensors  weights of the best epoch; trees have trees.json and booster-<step>.txt instead
history.json         loss and VALID scores over training
manifest.json        checksums of all the above; written last, so its presence means the training is complete
report.json, curves.json, scores.safetensors   written by `evaluate`
overlap.json         written by `overlap`
importance.json, decomposition.json   written by `explain`
slices.json          written by `slices`
gates.json, figures/ written by `inspect`
calibration.json     written by `calibrate`; what predicts uses it
checkpoint.json, checkpoint-<step>.safetensors   only while training
```
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError

from funnelcast.calibration import Calibration
from funnelcast.checkpoint import load_tensors
from funnelcast.config import Experiment, explain
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.files import check_sha256, read_json, sha256, write_json
from funnelcast.layers import FunnelModel
from funnelcast.negatives import add_correction, check_entry, sampled_rates
from funnelcast.registry import TREES, registry_of
from funnelcast.schema import Schema
from funnelcast.self_fitting import SelfFitting, refuse_loop_options
from funnelcast.value_head import add_value_head

__all__ = ["Run", "build_model", "create_run", "environment"]

FORMAT = 1
_WEIGHTS = ("weights.safetensors",)
_FIXED = ("run.json", "schema.json", "encoders.json", "history.json")


def environment() -> dict[str, str | int]:
    """Name the versions and the machine that a result depends on."""
    packages = {name: version(name) for name in ("funnelcast", "torch", "numpy", "duckdb", "pyarrow")}
    return {
        "python": platform.python_version(),
        **packages,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }


def build_model(experiment: Experiment, schema: Schema) -> FunnelModel:
    """Build an experiment's model with fresh weights, and a value head where the funnel ends in a value.

    A model that trains on a share of the negatives starts at the rates of the rows it will see; in evaluation mode it
    answers for all rows, by whomever it is asked.

    Args:
        experiment: names the model and its options.
        schema: the fields and the funnel.

    Raises:
        UnknownNameError: no model has this name.
        ConfigError: an option is wrong, or the funnel does not allow to sample negatives.
    """
    registry, options = registry_of(experiment.model.name), experiment.model.options
    if registry is TREES:
        refuse_loop_options(experiment)
        return cast(FunnelModel, registry.create(experiment.model.name, schema, options=options))
    share = experiment.train.negatives
    if share < 1.0:
        check_entry(schema)
    model: FunnelModel = registry.create(experiment.model.name, sampled_rates(schema, share), options=options)
    if schema.value_step is not None:
        add_value_head(model)
    return model if share == 1.0 else add_correction(model, share)


class Run:
    """A run's folder.

    Args:
        folder: a folder that `create_run` made.

    Raises:
        ArtifactError: the folder is not a run, or of an unknown format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = ("experiment", "seed", "data", "environment")
        self.record = read_json(folder / "run.json", "the record of a run", *keys, version=FORMAT)
        try:
            self.experiment = Experiment.model_validate(self.record["experiment"])
        except ValidationError as error:
            raise explain(folder / "run.json", error, Experiment) from error
        self.seed = int(self.record["seed"])
        self.schema = Schema.load(folder / "schema.json")

    @property
    def complete(self) -> bool:
        """Whether the training has ended."""
        return (self.folder / "manifest.json").is_file()

    @property
    def evaluated(self) -> bool:
        """Whether `evaluate` has written the run's report."""
        return (self.folder / "report.json").is_file()

    @property
    def calibrated(self) -> bool:
        """Whether the run has a calibration."""
        return (self.folder / "calibration.json").is_file()

    def load_calibration(self) -> Calibration:
        """Read the run's calibration.

        Raises:
            ArtifactError: there is none, it is damaged, or it was fitted for another run's weights.
        """
        path = self.folder / "calibration.json"
        if not self.calibrated:
            raise ArtifactError(f"{path}: does not exist; fit a calibration by 'funnelcast calibrate'")
        return Calibration.load(path, self.schema.step_names, self.weights_sha256())

    def weights_sha256(self) -> str:
        """Read the checksum of what was fitted from the manifest: that of the one file, or one of all files' checksums.

        Raises:
            ArtifactError: the training is not complete, or the manifest is damaged.
        """
        manifest = read_json(self.folder / "manifest.json", "the manifest of a run", "files", version=FORMAT)
        found = [digest for name, digest in sorted(manifest["files"].items()) if name not in _FIXED]
        return str(found[0]) if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    def load_model(self) -> FunnelModel:
        """Build the run's model with its best weights, in evaluation mode.

        Raises:
            ArtifactError: the training is not complete, or a file is missing or damaged.
        """
        if not self.complete:
            raise ArtifactError(f"{self.folder}: training is not complete; go on with 'funnelcast train --resume'")
        checksums = read_json(self.folder / "manifest.json", "the manifest of a run", "files", version=FORMAT)["files"]
        for name, expected in checksums.items():
            check_sha256(self.folder / name, expected)
        model = build_model(self.experiment, self.schema)
        if isinstance(model, SelfFitting):
            model.load(self.folder)
        else:
            model.load_state_dict(load_tensors(self.folder / _WEIGHTS[0], checksums[_WEIGHTS[0]]))
        return model.eval()

    def finish(self, weights: tuple[str, ...] = _WEIGHTS) -> None:
        """Write the manifest and remove the checkpoints.

        Args:
            weights: names of the files that hold what was fitted.
        """
        write_json(
            self.folder / "manifest.json",
            {"format": FORMAT, "files": {name: sha256(self.folder / name) for name in (*_FIXED, *weights)}},
        )
        for path in (self.folder / "checkpoint.json", *self.folder.glob("checkpoint-*.safetensors")):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second process that would train in it.

        Raises:
            ArtifactError: another process holds it.
        """
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArtifactError(f"{self.folder}: another process is training in this folder") from error
            yield


def create_run(folder: Path, data: PreparedData, experiment: Experiment, seed: int, *, resume: bool) -> Run:
    """Make a run's folder, or open the one that is there to go on with it.

    Args:
        folder: the run's folder; its parents are made.
        data: the prepared folder it trains on.
        experiment: what to train.
        seed: >= 0.
        resume: go on in an existing folder; without it an existing folder is refused.

    Raises:
        ConfigError: the folder exists and `resume` is not given, or it was made from another experiment, seed or data.
    """
    fingerprint = sha256(data.folder / "manifest.json")
    record = {
        "format": FORMAT,
        "experiment": experiment.model_dump(mode="json"),
        "seed": seed,
        "data": {"folder": str(data.folder), "dataset": data.schema.dataset, "manifest_sha256": fingerprint},
        "environment": environment(),
    }
    if (folder / "run.json").exists():
        if not resume:
            raise ConfigError(f"{folder}: a run is here already; use --resume to go on with it, or another folder")
        former = read_json(folder / "run.json", "the record of a run")
        try:  # options that came after the run was made count with their defaults
            former |= {"experiment": Experiment.model_validate(former.get("experiment")).model_dump(mode="json")}
        except ValidationError as error:
            raise explain(folder / "run.json", error, Experiment) from error
        changed = [key for key in ("experiment", "seed") if former.get(key) != record[key]]
        if former.get("data", {}).get("manifest_sha256") != fingerprint:
            changed.append("data")
        if changed:
            raise ConfigError(
                f"{folder}: cannot go on, the run there has another {' and '.join(changed)}; use another folder"
            )
        return Run(folder)
    if folder.is_dir() and any(path.name not in (*_FIXED, *_WEIGHTS) for path in folder.iterdir()):
        raise ConfigError(f"{folder}: should be a new or empty folder, but holds other files")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: should be a new or empty folder, but cannot be made: {error.strerror}") from error
    for name in ("schema.json", "encoders.json"):
        shutil.copyfile(data.folder / name, folder / name)
    write_json(folder / "run.json", record)
    return Run(folder)
