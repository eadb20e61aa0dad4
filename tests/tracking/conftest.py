"""A run to track."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runs_on_disk import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete and evaluated run."""
    return write_run(tmp_path / "run")
