"""A run's folder written by hand, with numbers that float32 holds exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from funnelcast.files import sha256


def write_run(folder: Path, *, name: str = "esmm", seed: int = 3, auc: float = 0.75, hidden: int = 8) -> Path:
    """Write a complete and evaluated run of two steps."""
    folder.mkdir(parents=True)
    buy = {"rows": 900, "positives": 30, "auc": None, "auc_reason": "only one class", "pcoc": 1.5}
    click = {"rows": 900, "positives": 90, "auc": auc, "gauc_users": 12}
    experiment = {"name": name, "model": {"name": "esmm", "options": {"hidden": [hidden]}}}
    files: dict[str, Any] = {
        "run": {
            "format": 1,
            "experiment": experiment,
            "seed": seed,
            "data": {"folder": "prepared", "dataset": "shop", "manifest_sha256": "d" * 64},
            "environment": {"torch": "2.13.0", "cores": 2},
        },
        "schema": {"steps": [{"name": "click"}, {"name": "buy <b>"}]},
        "history": {
            "loss": [
                {"step": 50, "rows": 500, "loss": 0.5},
                {"step": 100, "rows": 999, "loss": 0.25, "clipped_share": {"transition_ips": [0.0, 0.125]}},
            ],
            "epochs": [
                {"epoch": 0, "step": 60, "valid_ne": [0.90625, 1.0], "valid_mean_ne": 0.953125},
                {"epoch": 1, "step": 120, "valid_ne": [0.875, None], "valid_mean_ne": 0.875},
            ],
        },
        "report": {
            "format": 1,
            "dataset": "shop",
            "split": "test",
            "rows": 900,
            "data_sha256": "d" * 64,
            "steps": [
                {"name": "click", "reach": click, "transition": click},
                {"name": "buy <b>", "reach": buy, "transition": {"auc": None, "error": {"rmse": 0.25, "bias": None}}},
            ],
        },
    }
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "weights.safetensors").write_bytes(b"weights")
    checksums = {f"{stem}.json": sha256(folder / f"{stem}.json") for stem in ("run", "schema", "history")}
    manifest = {"format": 1, "files": {**checksums, "weights.safetensors": "c" * 64}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder
