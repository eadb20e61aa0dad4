"""A bundle that tests may damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bundles_on_disk import train_run

from funnelcast.calibrate import calibrate
from funnelcast.data.shards import PreparedData
from funnelcast.export import export_run


@pytest.fixture
def bundle(make_prepared: Callable[[], Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle; exported once, each test changes a copy."""
    kept = tmp_path_factory.getbasetemp() / "calibrated-bundle"
    if not kept.exists():
        prepared = make_prepared()
        run = train_run(tmp_path / "run", prepared, hidden=[4])
        calibrate(run, PreparedData(prepared), method="joint")
        export_run(run, "onnx", kept)
    return shutil.copytree(kept, tmp_path / "bundle")
