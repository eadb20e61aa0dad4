"""Broken funnels: counting, dropping, repairing, keeping a sample; splits of every kind."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.data.description import Description
from funnelcast.data.prepare import prepare
from funnelcast.errors import DataError

# Row:      1  2  3     4  5     6  7 | 8 | 9
A: list[Any] = [1, 0, None, 1, 0, 0, 1, 1, 0]
B: list[Any] = [1, 1, 1, None, None, 0, 0, 1, 1]
C: list[Any] = [1, 1, 0, 1, 1, 0, 0, 0, 0]
# Row 2 breaks b (a is 0; c follows b); row 3 breaks nothing (a unknown); row 4 neither (b unknown, a happened);
# row 5 breaks c (b unknown, a known as 0); row 9 breaks b.
PART = ["train"] * 7 + ["valid", "test"]


def run(folder: Path, action: str, **labels: Any) -> tuple[dict[str, Any], Path]:
    source = folder / "rows.parquet"
    pq.write_table(pa.table({"part": PART, "item": list(range(9)), "a": A, "b": B, "c": C}), source)
    description = Description.model_validate(
        {
            "name": "chain",
            "source": {"files": [str(source)]},
            "features": [{"name": "item"}],
            "steps": ["a", "b", "c"],
            "split": {"kind": "column", "column": "part"},
            "labels": {"violations": action, **labels},
        }
    )
    return prepare(description, folder / "out"), folder / "out"


def test_refuse_names_the_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'b' without 'a' in 2 row\(s\), 'c' without 'b' in 1 row\(s\)"):
        run(tmp_path, "refuse")


def test_repair_sets_later_steps_to_zero(tmp_path: Path) -> None:
    manifest, out = run(tmp_path, "repair")
    train = pq.read_table(out / "train").to_pydict()
    assert train["label.a"] == [1, 0, None, 1, 0, 0, 1]
    assert train["label.b"] == [1, 0, 1, None, None, 0, 0]
    assert train["label.c"] == [1, 0, 0, 1, 0, 0, 0]
    assert pq.read_table(out / "test").to_pydict()["label.b"] == [0]
    assert manifest["audit"] == {"action": "repair", "violations": {"a": 0, "b": 2, "c": 1}, "rows": 3}
    assert manifest["splits"]["train"]["positives"] == {"a": 3, "b": 2, "c": 2}


def test_drop_leaves_an_empty_test_part_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"received none for test \(rows: train 5, valid 1, test 0"):
        run(tmp_path, "drop")


def test_drop_takes_the_rows_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PART", ["train"] * 6 + ["valid", "test", "train"])
    manifest, out = run(tmp_path, "drop")
    train = pq.read_table(out / "train").to_pydict()
    assert train["label.c"] == [1, 0, 1, 0]
    assert train["field.item"] == [2, 3, 4, 5]  # items 0, 2, 3, 5: dropped rows are no part of the vocabulary
    assert manifest["splits"]["train"]["rows"] == 4
    assert manifest["audit"] == {"action": "drop", "violations": {"a": 0, "b": 2, "c": 1}, "rows": 3}


def test_sample_holds_raw_rows_and_their_numbers(tmp_path: Path) -> None:
    _, out = run(tmp_path, "repair", sample=2)
    sample = pq.read_table(out / "violations.parquet").to_pydict()
    assert sample == {
        "funnelcast:row": [2, 5],
        "part": ["train", "train"],
        "item": [1, 4],
        "a": [0, 0],
        "b": [1, None],
        "c": [1, 1],
    }


def test_no_sample_where_none_is_wanted(tmp_path: Path) -> None:
    _, out = run(tmp_path, "repair", sample=0)
    assert not (out / "violations.parquet").exists()


def split_rows(folder: Path, column: Any, split: dict[str, Any]) -> dict[str, list[int]]:
    """Split rows 0..n-1 by a column; the row number travels as the time."""
    rows = len(column)
    table = pa.table({"key": column, "n": list(range(rows)), "click": [n % 2 for n in range(rows)]})
    pq.write_table(table, folder / "rows.parquet")
    description = Description.model_validate(
        {
            "name": "split",
            "source": {"files": [str(folder / "rows.parquet")]},
            "features": [{"name": "n"}],
            "steps": ["click"],
            "time": "n",
            "split": {"column": "key", **split},
        }
    )
    prepare(description, folder / "out")
    return {part: pq.read_table(folder / "out" / part)["time"].to_pylist() for part in ("train", "valid", "test")}


DAYS = [datetime.date(2022, 5, day) for day in (1, 2, 3, 4, 5)]
HALF = [datetime.datetime(2022, 5, day, 12) for day in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("column", "valid", "test"),
    [
        (DAYS, datetime.date(2022, 5, 4), datetime.date(2022, 5, 5)),
        (DAYS, "2022-05-04", "2022-05-05"),
        (DAYS, datetime.datetime(2022, 5, 3, 12), datetime.datetime(2022, 5, 4, 12)),
        (HALF, datetime.date(2022, 5, 4), datetime.datetime(2022, 5, 5, 12)),
        (HALF, datetime.datetime(2022, 5, 4, 14, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), "2022-05-05"),
        (["a", "b", "c", "d", "é"], "d", "é"),
        ([1, 2, 3, 4, 5], 4, 4.5),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.4, 0.45),
    ],
)
def test_time_split_compares_in_the_columns_own_type(tmp_path: Path, column: Any, valid: Any, test: Any) -> None:
    split = {"kind": "time", "valid_from": valid, "test_from": test}
    assert split_rows(tmp_path, column, split) == {"train": [0, 1, 2], "valid": [3], "test": [4]}


def test_rows_without_a_time_are_left_out(tmp_path: Path) -> None:
    split = {"kind": "time", "valid_from": 3, "test_from": 4}
    column = pa.array([1.0, 2.0, None, float("nan"), 3.0, 4.0])
    assert split_rows(tmp_path, column, split) == {"train": [0, 1], "valid": [4], "test": [5]}


@pytest.mark.parametrize("column", [[0, 0, 1, 2, 7], [0.0, 0.0, 1.0, 2.0, 7.5], ["0", "0", "1", "2", "x"]])
def test_column_split_compares_numbers_and_text(tmp_path: Path, column: Any) -> None:
    split = {"kind": "column", "train": [0], "valid": ["1"], "test": [2]}
    assert split_rows(tmp_path, column, split) == {"train": [0, 1], "valid": [2], "test": [3]}


def test_hash_split_is_the_documented_function_of_salt_and_value(tmp_path: Path) -> None:
    keys = [f"u{n % 150}" for n in range(600)]
    found = split_rows(tmp_path, keys, {"kind": "hash", "valid": 0.2, "test": 0.1, "salt": "s"})
    expected: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for row, key in enumerate(keys):
        draw = int.from_bytes(hashlib.md5(f"s:{key}".encode()).digest()[8:], "little") / 2**64
        expected["test" if draw < 0.1 else "valid" if draw < 0.1 + 0.2 else "train"].append(row)
    assert found == expected


def test_a_part_without_known_labels_counts_zero(tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    part, buy = ["train", "train", "valid", "test"], pa.array([1, 0, None, None], pa.int8())
    pq.write_table(pa.table({"part": part, "item": [1, 2, 3, 4], "buy": buy}), source)
    description = Description.model_validate(
        {
            "name": "late",
            "source": {"files": [str(source)]},
            "features": [{"name": "item"}],
            "steps": ["buy"],
            "split": {"kind": "column", "column": "part"},
        }
    )
    splits = prepare(description, tmp_path / "out")["splits"]
    assert [(splits[part]["observed"]["buy"], splits[part]["positives"]["buy"]) for part in splits] == [
        (2, 1),
        (0, 0),
        (0, 0),
    ]


def test_sample_leaves_out_rows_of_no_part(tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    columns = {"part": ["no", *PART], "item": list(range(10)), "a": [0, *A], "b": [1, *B], "c": [0, *C]}
    pq.write_table(pa.table(columns), source)
    description = Description.model_validate(
        {
            "name": "chain",
            "source": {"files": [str(source)]},
            "features": [{"name": "item"}],
            "steps": ["a", "b", "c"],
            "split": {"kind": "column", "column": "part"},
            "labels": {"violations": "repair", "sample": 1},
        }
    )
    prepare(description, tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "violations.parquet")["funnelcast:row"].to_pylist() == [3]
