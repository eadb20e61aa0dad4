"""Target statistics: numbers by hand, and the proof that a row's own label never reaches its statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.data.description import Description
from funnelcast.data.encode import Encoders, KeyStatistics
from funnelcast.data.fit_statistics import fit_statistics
from funnelcast.data.prepare import prepare
from funnelcast.data.stage import PART, staged_column
from funnelcast.data.target_statistics import train_statistics
from funnelcast.progress import RowProgress

SMOOTHING = 2.0


def fold_of(row: int, folds: int) -> int:
    return (row * 2654435761) // 65536 % 65536 % folds


def fit(folder: Path, columns: dict[str, Any], keys: list[str], **options: Any) -> tuple[KeyStatistics, Any, Any]:
    """Fit on staged columns; gives the statistics and TRAIN's own n [rows] and means [rows, S]."""
    steps = [name for name in columns if name.startswith("step")]
    renamed = {staged_column(f"label.{n}") if n in steps else n: values for n, values in columns.items()}
    table = pa.table(renamed)
    for step in steps:
        name = staged_column(f"label.{step}")
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.int8()))
    pq.write_table(table, folder / "staged.parquet")
    description = Description.model_validate(
        {
            "name": "x",
            "source": {"files": ["x"]},
            "features": [{"name": "f"}],
            "steps": steps,
            "split": {"kind": "hash", "column": "f"},
            "time": "f",
            "target_statistics": [{"columns": keys, "smoothing": SMOOTHING, **options}],
        }
    )
    with duckdb.connect() as connection, RowProgress("fit", None) as progress:
        [(statistics, own)] = fit_statistics(connection, description, folder / "staged.parquet", folder, progress)
    return statistics, *train_statistics(pq.read_table(own), len(steps))


def test_out_of_fold_by_hand(tmp_path: Path) -> None:
    key = ["a", "b", "a", "a", "b", "a", "zzz"]
    first = [1, 0, 1, None, 1, 0, 1]
    second = [1, None, 0, None, 1, None, 1]
    part = [0, 0, 0, 0, 0, 0, 1]
    folds = [fold_of(row, 2) for row in range(6)]
    assert folds == [0, 1, 0, 0, 1, 1]  # the hand-worked numbers below rest on it
    statistics, n, means = fit(
        tmp_path, {"k": key, "step1": first, "step2": second, PART: part}, ["k"], folds=2, buckets=4
    )
    # Fold 0 holds rows 0, 2, 3 (a, a, a), fold 1 rows 1, 4, 5 (b, b, a).
    assert n.tolist() == [1, 0, 1, 1, 0, 3]
    # Step 1: a row of fold 0 sees fold 1 (a: 0 of 1; overall 1 of 3); a row of fold 1 sees fold 0 (a: 2 of 2).
    a0, b1, a1 = (0 + 2 / 3) / (1 + 2), (0 + 2 * 1.0) / 2, (2 + 2 * 1.0) / (2 + 2)
    np.testing.assert_allclose(means[:, 0], [a0, b1, a0, a0, b1, a1], rtol=1e-15)
    # Step 2: fold 1 knows one label (b, row 4: 1), fold 0 two (a: 1 of 2).
    a0, b1, a1 = (0 + 2 * 1.0) / 2, (0 + 2 * 0.5) / 2, (1 + 2 * 0.5) / (2 + 2)
    np.testing.assert_allclose(means[:, 1], [a0, b1, a0, a0, b1, a1], rtol=1e-15)
    # Elsewhere all of TRAIN counts: a 2 of 3 and 1 of 2, b 1 of 2 and 1 of 1, overall 3 of 5 and 2 of 3.
    n, means = statistics.look_up([pa.array(["a", "b", "zzz", None])])
    assert n.tolist() == [4, 2, 0, 0]
    np.testing.assert_allclose(means[:, 0], [(2 + 1.2) / 5, (1 + 1.2) / 4, 0.6, 0.6], rtol=1e-15)
    np.testing.assert_allclose(means[:, 1], [(1 + 4 / 3) / 4, (1 + 4 / 3) / 3, 2 / 3, 2 / 3], rtol=1e-15)
    assert [field.name for field in statistics.fields()] == ["stat(k).step1", "stat(k).step2", "stat(k).count"]


def test_pairs_and_null_keys_by_hand(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "u": [1, 1, None, None, 2, 1],
        "v": ["x", "y", "x", "x", None, "x"],
        "step1": [1, 0, 1, 0, 1, 0],
        PART: [0] * 6,
    }
    statistics, n, means = fit(tmp_path, columns, ["u", "v"], folds=2)
    keys = list(zip(columns["u"], columns["v"], strict=True))
    for row in range(6):
        others = [r for r in range(6) if fold_of(r, 2) != fold_of(row, 2)]
        same = [columns["step1"][r] for r in others if keys[r] == keys[row]]
        rate = np.mean([columns["step1"][r] for r in others])
        assert n[row] == len(same)
        assert means[row, 0] == pytest.approx((sum(same) + SMOOTHING * rate) / (len(same) + SMOOTHING), rel=1e-15)
    n, means = statistics.look_up([pa.array([1, None, 2, 2, 3]), pa.array(["x", "x", None, "x", "x"])])
    assert n.tolist() == [2, 2, 1, 0, 0]
    np.testing.assert_allclose(means[:, 0], [2 / 4, 2 / 4, 2 / 3, 0.5, 0.5], rtol=1e-15)


def test_earlier_rows_only_by_hand(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "k": ["a", "b", "a", "a", "a"],
        staged_column("time"): [10, 10, 20, 20, 5],
        "step1": [1, 0, 0, 1, 1],
        PART: [0] * 5,
    }
    _, n, means = fit(tmp_path, columns, ["k"], earlier_only=True)
    assert n.tolist() == [1, 0, 2, 2, 0]  # ties in time (rows 2 and 3) do not see each other
    # Overall rate before time 10: 1 of 1; before 20: 2 of 3; before 5 nothing is known.
    expected = [(1 + 2) / (1 + 2), (0 + 2) / 2, (2 + 4 / 3) / 4, (2 + 4 / 3) / 4, np.nan]
    np.testing.assert_allclose(means[:, 0], expected, rtol=1e-15)


@pytest.mark.parametrize("options", [{"folds": 3}, {"earlier_only": True}])
def test_a_row_never_sees_its_own_label(tmp_path: Path, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    rows = 40
    labels = rng.integers(0, 2, rows)
    columns: dict[str, Any] = {
        "k": rng.integers(0, 4, rows).tolist(),
        staged_column("time"): rng.integers(0, 15, rows).tolist(),
        "step1": labels.tolist(),
        PART: [0] * rows,
    }
    _, n, means = fit(tmp_path, columns, ["k"], **options)
    seen = 0
    for row in range(0, rows, 5):
        flipped = labels.copy()
        flipped[row] = 1 - flipped[row]
        statistics, n_after, means_after = fit(tmp_path, columns | {"step1": flipped.tolist()}, ["k"], **options)
        assert n_after[row] == n[row]
        np.testing.assert_array_equal(means_after[row], means[row])
        buckets = [array[0].as_py() for array in statistics.bucket(n[row : row + 1], means[row : row + 1])]
        assert buckets == [array[row].as_py() for array in statistics.bucket(n_after, means_after)]
        seen += int((means_after != means).any())
    assert seen >= 6  # the flipped labels did reach other rows


def test_shards_hold_own_statistics_on_train_and_whole_ones_elsewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    rows = 3000
    columns: dict[str, Any] = {
        "k": rng.integers(0, 6, rows),
        "t": np.arange(rows),
        "click": rng.integers(0, 2, rows),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    description = Description.model_validate(
        {
            "name": "x",
            "source": {"files": [str(tmp_path / "rows.parquet")]},
            "features": [{"name": "k"}],
            "steps": ["click"],
            "split": {"kind": "hash", "column": "t", "valid": 0.3, "test": 0.3},
            "target_statistics": [{"columns": ["k"], "folds": 2, "buckets": 50}],
            "time": "t",
        }
    )
    prepare(description, tmp_path / "out")
    encoders = Encoders.load(tmp_path / "out" / "encoders.json")
    raw = pa.table(columns)
    agreement = {}
    for part in ("train", "valid", "test"):
        shard = pq.read_table(tmp_path / "out" / part)
        whole = encoders.encode(raw.take(shard["time"]))
        agreement[part] = (whole["field.stat(k).click"].to_numpy() == shard["field.stat(k).click"].to_numpy()).mean()
        assert (shard["field.stat(k).click"].to_numpy() >= 2).all()
    assert agreement["valid"] == agreement["test"] == 1.0
    assert agreement["train"] < 0.9


def test_a_count_beyond_train_falls_into_the_nearest_bucket_below(tmp_path: Path) -> None:
    columns = {"k": ["a"] * 40 + ["b"] * 2, "step1": [0, 1] * 21, PART: [0] * 42}
    statistics, own, _ = fit(tmp_path, columns, ["k"], folds=2)
    n, means = statistics.look_up([pa.array(["a", "new"])])
    assert n[0] == 40 > own.max()
    count = statistics.bucket(n, means)[-1].to_pylist()
    assert count[0] == statistics.fields()[-1].size - 1
    assert count[1] == 2
