"""Bundles for the benchmarks of the service: 23 columns as those of Ali-CCP, and models of two sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORK = Path("build/bench-serving")
ROWS = 20_000
WHOLE = [20_000, 5_000, 2_000, 500, 200, 100, 50, 24, 12, 7, 5, 3]  # values of the columns of whole numbers
TEXT = [5_000, 1_000, 300, 100, 40, 20, 10, 5, 3]  # and of text
MODELS = {"shared_bottom": ("shared_bottom", 0), "another": ("shared_bottom", 1), "apem": ("apem", 0)}  # model, seed


def bundle(name: str) -> Path:
    """Return a bundle of `MODELS`, trained for one epoch unless it is there."""
    folder = WORK / name
    if not folder.exists():
        prepared = _prepared()
        from funnelcast.config import Component, Experiment, TrainConfig
        from funnelcast.data.shards import PreparedData
        from funnelcast.export import export_run
        from funnelcast.train import fit

        model, seed = MODELS[name]
        experiment = Experiment(name=name, model=Component(name=model), train=TrainConfig(epochs=1, device="cpu"))
        export_run(fit(WORK / f"run-{name}", PreparedData(prepared), experiment, seed=seed), "onnx", folder)
    return folder


def rows(count: int) -> list[dict[str, Any]]:
    """Return raw rows without labels, the first ones of TEST."""
    _prepared()
    table = pq.read_table(WORK / "rows.parquet").drop_columns(["click", "buy", "part"])
    found: list[dict[str, Any]] = table.slice(ROWS - 2000, count).to_pylist()
    return found


def body(count: int) -> str:
    """Return a request with so many candidates of one user, whose columns stand once."""
    given = rows(count)
    shared = {name: given[0][name] for name in list(given[0])[::2]} if count > 1 else {}
    candidates = [{name: value for name, value in row.items() if name not in shared} for row in given]
    return json.dumps({"user": "ann", "context": shared, "candidates": candidates}, separators=(",", ":"))


def _prepared() -> Path:
    """Draw and prepare rows, once."""
    folder = WORK / "prepared"
    if (folder / "manifest.json").exists():
        return folder
    from funnelcast.data.description import Description
    from funnelcast.data.prepare import prepare

    WORK.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {f"whole{k}": _ids(draw, size) for k, size in enumerate(WHOLE)}
    columns |= {f"text{k}": [f"value {v}" for v in _ids(draw, size)] for k, size in enumerate(TEXT)}
    columns |= {"price": draw.lognormal(3, 1, ROWS), "age": draw.integers(18, 80, ROWS)}
    click = draw.random(ROWS) < 0.2
    columns |= {"click": click, "buy": click & (draw.random(ROWS) < 0.2)}
    columns["part"] = ["train"] * (ROWS - 4000) + ["valid"] * 2000 + ["test"] * 2000
    pq.write_table(pa.table(columns), WORK / "rows.parquet")
    plain = [f"whole{k}" for k in range(len(WHOLE))] + [f"text{k}" for k in range(len(TEXT))]
    described = {
        "name": "serving",
        "source": {"files": [str(WORK / "rows.parquet")]},
        "features": [
            {"names": plain},
            {"name": "price", "kind": "numeric"},
            {"name": "age", "kind": "numeric", "encoder": "quantile"},
        ],
        "steps": ["click", "buy"],
        "split": {"kind": "column", "column": "part"},
    }
    prepare(Description.model_validate(described), folder)
    return folder


def _ids(draw: np.random.Generator, size: int) -> Any:
    """Ids of which few are frequent."""
    return (draw.random(ROWS) ** 2 * size).astype(np.int64)
