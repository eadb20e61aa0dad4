"""Part `parity` of `benchmarks.serving`: TEST rows of KuaiRand through HTTP, `score` and `predict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.serving import Finding
from benchmarks.serving_models import WORK
from benchmarks.serving_process import Served
from numpy.typing import NDArray

from funnelcast.data.shards import PreparedData
from funnelcast.schema import score_columns
from funnelcast.serving import Bundle

ROWS, TOGETHER, ALONE = 10_000, 250, 200
SPOILT = 0.05  # of the cells are null, and as many are unknown or extreme
# By the raw column's type; a number that its vocabulary has not seen, or that lies beyond every bucket.
STRANGE: dict[str, Any] = {
    "large_string": "never seen é",
    "date32[day]": date(1970, 1, 1),
    "int64": 2**63 - 1,
    "int8": 99,
    "double": 1e15,
}


def parity(prepared: Path, impressions: Path) -> list[Finding]:
    """Compare the scores of three ways, over usual rows with nulls, unknown and extreme values among them.

    Args:
        prepared: KuaiRand.
        impressions: its raw rows.
    """
    from funnelcast.predict import predict_file
    from funnelcast.run import Run
    from funnelcast.serving.score_files import score_files

    folder = _bundle(prepared)
    bundle, source = Bundle.load(folder), WORK / "parity.parquet"
    raw = _spoil(_test_rows(prepared, impressions, bundle.encoders.raw_columns()))
    pq.write_table(raw, source)
    predict_file(Run(WORK / "run-kuairand"), source, WORK / "predicted.parquet")
    scored = WORK / f"scored-{bundle.version}-{_stamp(source)}"
    score_files(bundle, source, scored)
    names = score_columns(bundle.schema)
    offline = _matrix(pq.read_table(WORK / "predicted.parquet"), names)
    in_files = _matrix(pq.read_table(scored), names)
    with Served(folder) as served:
        together, alone = _served(served, raw, names)
    note = f"{raw.num_rows:,} rows, {SPOILT:.0%} of the cells null and {SPOILT:.0%} unknown or extreme"

    def difference(name: str, found: NDArray[np.float64], other: NDArray[np.float64]) -> Finding:
        return Finding("parity", name, float(np.abs(found - other).max()), "", "<= 1e-6", note)

    return [
        difference("HTTP beside predict", together, offline),
        difference("HTTP beside score", together, in_files),
        difference("alone beside together", alone, together[:ALONE]),
    ]


def _bundle(prepared: Path) -> Path:
    """Train as `experiments/kuairand/shared_bottom.toml` says, and export, once."""
    from funnelcast.config import Component, Experiment, TrainConfig
    from funnelcast.export import export_run
    from funnelcast.train import fit

    folder = WORK / "kuairand"
    if not folder.exists():
        experiment = Experiment(
            name="shared_bottom", model=Component(name="shared_bottom"), train=TrainConfig(epochs=3, device="cpu")
        )
        export_run(fit(WORK / "run-kuairand", PreparedData(prepared), experiment), "onnx", folder)
    return folder


def _test_rows(prepared: Path, impressions: Path, columns: Sequence[str]) -> pa.Table:
    described = json.loads((prepared / "manifest.json").read_text())["description"]["split"]
    first = date.fromisoformat(described["test_from"])
    rows = pq.read_table(impressions, filters=pc.field("date") >= first, columns=list(columns))
    draw = np.random.default_rng(0)
    return rows.take(pa.array(np.sort(draw.choice(rows.num_rows, ROWS, replace=False)))).combine_chunks()


def _spoil(rows: pa.Table) -> pa.Table:
    """Put nulls, unknown and extreme values into some cells."""
    draw = np.random.default_rng(1)
    made = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        array, place = column.chunk(0), draw.random(rows.num_rows)
        strange = pa.scalar(STRANGE[str(array.type)], array.type)
        array = pc.if_else(pa.array(place < SPOILT), pa.scalar(None, array.type), array)
        made[name] = pc.if_else(pa.array(place > 1 - SPOILT), strange, array)
    return pa.table(made)


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns


def _matrix(table: pa.Table, names: Sequence[str]) -> NDArray[np.float64]:
    return np.stack([table[name].to_numpy() for name in names], 1).astype(np.float64)


def _served(served: Served, raw: pa.Table, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of all rows in requests of many, as rows and as columns in turns, and of the first ones alone."""
    draw = np.random.default_rng(2)
    rows = [{name: _json(value) for name, value in row.items()} for row in raw.to_pylist()]
    found = []
    for number, start in enumerate(range(0, len(rows), TOGETHER)):
        some = rows[start : start + TOGETHER]
        order = draw.permutation(raw.column_names).tolist()
        said = {"columns": {name: [row[name] for row in some] for name in order}}
        found.append(_ask(served, said if number % 2 else {"candidates": some}, names))
    alone = [_ask(served, {"context": row, "candidates": [{}]}, names) for row in rows[:ALONE]]
    return np.concatenate(found), np.concatenate(alone)


def _json(value: Any) -> Any:
    """As a client would write it: dates as text, and what is no number as null."""
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _ask(served: Served, said: Any, names: Sequence[str]) -> NDArray[np.float64]:
    status, answer = served.ask("/v1/score", json.dumps(said))
    if status != 200:
        raise RuntimeError(f"the service answered {status}: {answer.decode()[:500]}")
    scores = json.loads(answer)
    return np.array([scores[name.partition("_")[0]][name.partition("_")[2]] for name in names], np.float64).T
