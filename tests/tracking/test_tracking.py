"""Runs in TensorBoard and MLflow, read back with their own readers."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funnelcast.errors import ArtifactError, ConfigError, UnknownNameError
from funnelcast.tracking import export, open_trackers, read_tracked
from funnelcast.tracking.mlflow import MLflow, allowed_names
from funnelcast.tracking.tensorboard import TensorBoard


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for point in read_tracked(folder).points:
        found.setdefault(point.name, []).append((point.step, point.value))
    return found


def test_a_tracked_run_holds_curves_scores_and_configuration(run: Path) -> None:
    tracked = read_tracked(run)
    assert (tracked.name, tracked.dataset) == ("esmm-seed3", "shop")
    assert tracked.parameters["model.name"] == "esmm"
    assert tracked.parameters["model.options.hidden"] == "[8]"
    assert tracked.parameters["seed"] == "3"
    assert points(run) == {
        "train/loss": [(50, 0.5), (100, 0.25)],
        "train/clipped_share/transition_ips/0": [(100, 0.0)],
        "train/clipped_share/transition_ips/1": [(100, 0.125)],
        "valid/mean_ne": [(60, 0.953125), (120, 0.875)],
        "valid/ne/click": [(60, 0.90625), (120, 0.875)],
        "valid/ne/buy <b>": [(60, 1.0)],  # undefined in the second epoch
        "test/click/reach/auc": [(120, 0.75)],
        "test/click/transition/auc": [(120, 0.75)],
        "test/buy <b>/reach/pcoc": [(120, 1.5)],
        "test/buy <b>/transition_error/rmse": [(120, 0.25)],
    }
    assert tracked.tags["funnelcast.state"] == "complete"
    assert tracked.tags["funnelcast.sha256.weights.safetensors"] == "c" * 64


def test_a_training_under_way_goes_as_far_as_its_checkpoint(run: Path) -> None:
    history = json.loads((run / "history.json").read_text())
    checkpoint = {"tensors": "x", "sha256": "y", "state": {"history": {**history, "epochs": []}}}
    (run / "checkpoint.json").write_text(json.dumps(checkpoint))
    for name in ("history.json", "manifest.json", "report.json"):
        (run / name).unlink()
    assert set(points(run)) == {f"train/{n}" for n in ("loss", *(f"clipped_share/transition_ips/{i}" for i in (0, 1)))}
    assert read_tracked(run).tags["funnelcast.state"] == "training"
    (run / "checkpoint.json").unlink()
    assert points(run) == {}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"run\.json: should be the record of a run, but does not exist"):
        read_tracked(tmp_path)


@pytest.mark.parametrize("target", ["tensorboard", "=runs", "tensorboard="])
def test_a_target_without_name_or_place_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"a tracker should be name=place, received .*; known: mlflow, tensorboard"):
        open_trackers([target])


def test_an_unknown_tracker_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tensorboard'"):
        open_trackers(["tensorbord=runs"])


@pytest.mark.parametrize(("make", "package"), [(TensorBoard, "tensorboard"), (MLflow, "mlflow")])
def test_a_missing_package_says_what_to_install(
    make: Callable[[str], Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ConfigError, match=rf"^{package} should be installed: pip install 'funnelcast\[track\]'$"):
        make("anywhere")


@pytest.mark.slow
def test_tensorboard_reads_the_run_back(run: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    other = tmp_path / "logs" / "esmm-seed3" / "events.out.tfevents.1.other"
    for _ in range(2):  # a second export takes the place of the first
        (place,) = export(run, open_trackers([f"tensorboard={tmp_path / 'logs'}"]))
        assert place == str(tmp_path / "logs" / "esmm-seed3")
    other.write_bytes(b"")
    export(run, open_trackers([f"tensorboard={tmp_path / 'logs'}"]))
    assert len(list(Path(place).iterdir())) == 2
    assert other.exists()
    other.unlink()
    events = EventAccumulator(place)
    events.Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found == points(run)
    assert set(events.PluginTagToContent("hparams")) == {
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    (text,) = events.Tensors("configuration/text_summary")
    assert b'"model.name": "esmm"' in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_mlflow_reads_the_run_back(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.chdir(tmp_path)
    address = f"sqlite:///{tmp_path / 'runs.db'}"
    for _ in range(2):
        (place,) = export(run, open_trackers([f"mlflow={address}"]))
    from mlflow import MlflowClient

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("shop")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])  # the first export is gone
    assert place == f"{address}, run {found.info.run_id}"
    assert found.info.status == "FINISHED"
    assert found.data.params["model.name"] == "esmm"
    assert found.data.tags["funnelcast.state"] == "complete"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(50, 0.5), (100, 0.25)]
    assert found.data.metrics["test/buy _b_/reach/pcoc"] == 1.5
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("run", "runs.db")] == []


@pytest.mark.slow
def test_an_address_that_mlflow_cannot_write_is_one_line(run: Path, tmp_path: Path) -> None:
    (tracker,) = open_trackers(["mlflow=nonsense://x"])
    with pytest.raises(ConfigError, match="nonsense://x: should be an address that MLflow can write, received: "):
        tracker.write(read_tracked(run))


def test_a_folder_that_tensorboard_cannot_write_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tracker,) = open_trackers([f"tensorboard={tmp_path / 'file'}"])
    with pytest.raises(ConfigError, match="should be a folder for TensorBoard"):
        tracker.write(read_tracked(run))


def test_names_stay_apart_when_letters_are_replaced() -> None:
    found = allowed_names(["a/\u8d2d/x", "a/\u4e70/x", "a/../x", "a/./x"])
    assert list(found.values()) == ["a/_/x", "a/_/x.2", "a/_/x.3", "a/_/x.4"]
