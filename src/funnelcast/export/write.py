"""A run -> a bundle, whatever the target."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from funnelcast import __version__
from funnelcast.data.encode import Encoders
from funnelcast.data.ids import Ids
from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.export.card import model_card
from funnelcast.export.golden import golden_rows
from funnelcast.files import temporary_beside, write_bytes
from funnelcast.layers import FunnelModel
from funnelcast.predict import score_ids
from funnelcast.registry import EXPORTERS
from funnelcast.run import Run
from funnelcast.schema import Schema
from funnelcast.self_fitting import SelfFitting
from funnelcast.serving.bundle import open_bundle
from funnelcast.serving.manifest import MODEL_FILES, Manifest
from funnelcast.serving.scorer import Scored, Scorer

__all__ = ["Exporter", "export_run"]


class Exporter(Protocol):
    """A form that a model can take outside of training."""

    packages: ClassVar[tuple[str, ...]]  # that must be installed

    def write(self, model: FunnelModel, path: Path, *, calibrated: bool) -> None:
        """Write a model, whose outputs are those of `funnelcast.serving.contract`."""
        ...

    def open(self, path: Path, schema: Schema, *, calibrated: bool) -> Scorer:
        """Open what `write` wrote."""
        ...


def export_run(run: Run, target: str, folder: Path, *, calibrated: bool = True) -> float:
    """Write a run's bundle: it appears whole or not at all, and only if its golden rows get PyTorch's scores.

    Args:
        run: a complete run.
        target: a name of EXPORTERS.
        folder: the bundle; a new or empty folder.
        calibrated: put the run's calibration in, where it has one.

    Returns:
        The largest difference between a score of the golden rows and PyTorch's.

    Raises:
        UnknownNameError: there is no such target.
        ConfigError: a package is missing, the folder holds files, or trees should be exported.
        ArtifactError: the run is not complete or damaged, its model cannot be exported, or scores differ.
    """
    exporter: Exporter = EXPORTERS.create(target, options={})
    missing = [name for name in exporter.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"exporting to '{target}' needs {', '.join(missing)}, not installed here; install by: "
            "pip install 'funnelcast[export]'"
        )
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigError(f"{folder}: should be a new or empty folder, but holds something already")
    model = run.load_model()
    if isinstance(model, SelfFitting):
        raise ConfigError(
            f"{run.folder}: should be a run of a neural model, received '{run.experiment.model.name}', whose trees "
            "have no export yet; score with 'funnelcast predict'"
        )
    temporary = temporary_beside(folder.absolute())
    try:
        temporary.mkdir(parents=True)
        difference = _write(run, model, exporter, target, temporary, calibrated=calibrated and run.calibrated)
        temporary.replace(folder.absolute())
    except OSError as error:
        raise ArtifactError(f"{folder}: the bundle could not be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return difference


def _write(run: Run, model: FunnelModel, exporter: Exporter, target: str, folder: Path, *, calibrated: bool) -> float:
    """Write all files of a bundle, open it, and compare its golden rows."""
    calibration = run.load_calibration() if calibrated else None

    def score(ids: Ids) -> Scored:
        reach, transition, value = score_ids(model, calibration, torch.from_numpy(ids))
        return Scored(reach.numpy(), transition.numpy(), None if value is None else value.numpy())

    for name in ("schema.json", "encoders.json", *(["calibration.json"] if calibrated else [])):
        write_bytes(folder / name, (run.folder / name).read_bytes())
    golden_rows(Encoders.load(folder / "encoders.json"), run.schema, score).write(folder / "golden.json")
    write_bytes(folder / "README.md", model_card(run, target, calibrated=calibrated).encode())
    path = folder / MODEL_FILES[target]
    exporter.write(model, path, calibrated=calibrated)
    made_by = {"funnelcast": __version__, "torch": torch.__version__}
    Manifest.of(
        folder, target=target, name=run.experiment.name, run_sha256=run.weights_sha256(), made_by=made_by
    ).write(folder)
    scorer = exporter.open(path, run.schema, calibrated=calibrated)
    return open_bundle(folder, Manifest.read(folder), scorer).verify()
