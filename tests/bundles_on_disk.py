"""Trained runs and their bundles, as small as they come; one training serves all tests of a module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ArtifactError
from funnelcast.files import json_sha256, sha256
from funnelcast.run import Run
from funnelcast.serving import Bundle
from funnelcast.train import fit


def train_run(folder: Path, prepared: Path, model: str = "esmm", negatives: float = 1.0, **options: Any) -> Run:
    """Train a model for one epoch on a prepared folder."""
    train = TrainConfig(epochs=1, batch_size=64, device="cpu", learning_rate=0.05, negatives=negatives)
    return fit(
        folder,
        PreparedData(prepared),
        Experiment(name=model, model=Component(name=model, options=options), train=train),
    )


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def sign(bundle: Path, *names: str) -> None:
    """Write size and checksum of changed files into a bundle's manifest, and its own, as its maker would."""

    def enter(manifest: Any) -> None:
        for name in names:
            path = bundle / name
            manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        signed = {key: value for key, value in manifest.items() if key not in ("format", "sha256")}
        manifest["sha256"] = json_sha256(signed)

    edit_json(bundle / "manifest.json", enter)


def refuse(bundle: Path, pattern: str) -> None:
    """Expect one line that names the bundle."""
    with pytest.raises(ArtifactError, match=pattern) as caught:
        Bundle.load(bundle)
    assert "\n" not in str(caught.value) and str(bundle) in str(caught.value)


def edit_model(bundle: Path, change: Callable[[Any], object]) -> None:
    """Change the ONNX graph and sign it, as a careless or hostile maker would."""
    model = onnx.load(bundle / "model.onnx")
    change(model)
    onnx.save(model, bundle / "model.onnx")
    sign(bundle, "model.onnx")


def edit_weight(bundle: Path, change: Callable[[Any], object]) -> None:
    """Change the embedding table, and sign it."""

    def first_table(model: Any) -> None:
        (table,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("table")]
        change(table)

    edit_model(bundle, first_table)


def unknown_operator(model: Any) -> None:
    """Let the first operator be one that nobody knows."""
    model.graph.node[0].op_type = "Teleport"


def spoil_weight(tensor: Any) -> None:
    """Let a weight be no number."""
    values = numpy_helper.to_array(tensor).copy()
    values[7, 1] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swell(bundle: Path) -> None:
    """Let the model have 3 GiB: a hole, which takes no room on the disk."""
    with (bundle / "model.onnx").open("r+b") as file:
        file.truncate(3 << 30)
    edit_json(bundle / "manifest.json", lambda m: m["files"]["model.onnx"].update(bytes=3 << 30))
    sign(bundle)
