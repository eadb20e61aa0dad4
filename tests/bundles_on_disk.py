"""Trained runs and their bundles, as small as they come; one training serves all tests of a module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
