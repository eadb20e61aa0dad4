"""Each way in which raw files may not fit their description, with the message a user reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.data.description import Description
from funnelcast.data.prepare import prepare
from funnelcast.errors import DataError

GOOD: dict[str, Any] = {
    "part": ["train", "train", "train", "valid", "test"],
    "item": ["a", "b", "a", "a", "b"],
    "price": [1.5, 2.0, 3.0, 4.0, 5.0],
    "tags": [["a"], ["b"], [], ["a"], None],
    "click": [1, 0, 1, 0, 1],
    "buy": [1, 0, 0, 0, 1],
}
STRUCTS = pa.array([{"a": 1}] * 5)


def run(folder: Path, columns: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    path = folder / "rows.parquet"
    pq.write_table(pa.table(GOOD | (columns or {})), path)
    data: dict[str, Any] = {
        "name": "shop",
        "source": {"files": [str(path)]},
        "features": [{"name": "item"}],
        "steps": ["click", "buy"],
        "split": {"kind": "column", "column": "part"},
    }
    return prepare(Description.model_validate(data | changes), folder / "out")


def by_time(column: str, valid: Any, test: Any) -> dict[str, Any]:
    return {"kind": "time", "column": column, "valid_from": valid, "test_from": test}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "feature": ({}, {"features": [{"name": "itm"}]}, r"feature 'itm': column 'itm' should .* did you mean 'item'\?"),
    "step": ({}, {"steps": ["clik"]}, r"step 'clik': .* did you mean 'click'\?"),
    "truth": ({}, {"steps": [{"name": "click", "true_reach": "p"}]}, r"step 'click': column 'p' should be a column"),
    "split": ({}, {"split": {"kind": "hash", "column": "prt"}}, r"split: column 'prt' .* did you mean 'part'\?"),
    "user": ({}, {"user": "usr"}, r"user: column 'usr' should be a column"),
    "time": ({}, {"time": "when"}, r"time: column 'when' should be a column"),
    "weight": ({}, {"weight": "w"}, r"weight: column 'w' should be a column"),
    "statistics": (
        {},
        {"target_statistics": [{"columns": ["itm"]}]},
        r"target_statistics: column 'itm' .* did you mean 'item'\?",
    ),
    "numeric text": (
        {},
        {"features": [{"name": "item", "kind": "numeric"}]},
        r"feature 'item': column 'item' should hold numbers for kind 'numeric', received type VARCHAR",
    ),
    "categorical fraction": (
        {},
        {"features": [{"name": "price"}]},
        r"column 'price' should hold whole numbers .* received 1 row\(s\)",
    ),
    "categorical struct": ({"item": STRUCTS}, {}, r"'item' should hold text, whole numbers, .* received type STRUCT"),
    "categorical list": ({}, {"features": [{"name": "tags"}]}, r"'tags' should hold .* received type VARCHAR\[\]"),
    "multi without separator": (
        {},
        {"features": [{"name": "item", "kind": "multi"}]},
        r"should hold lists, or the key 'separator' should be given, received type VARCHAR",
    ),
    "multi number": (
        {},
        {"features": [{"name": "click", "column": "price", "kind": "multi", "separator": ","}]},
        r"should hold text to be separated, received type DOUBLE",
    ),
    "separator on list": (
        {},
        {"features": [{"name": "tags", "kind": "multi", "separator": ","}]},
        r"holds lists \(VARCHAR\[\]\), so the key 'separator' should be left out",
    ),
    "list of structs": (
        {"tags": pa.array([[{"a": 1}]] * 5)},
        {"features": [{"name": "tags", "kind": "multi"}]},
        r"'tags', its items should hold",
    ),
    "text label": ({"click": ["1"] * 5}, {}, r"label column 'click' should hold whole numbers, .* type VARCHAR"),
    "odd label": ({"click": [1, 0, 2, 2, 1]}, {}, r"step 'click': .* received 2 in 2 row\(s\)"),
    "text truth": (
        {},
        {"steps": [{"name": "click", "true_reach": "part"}]},
        r"truth column 'part' should hold whole numbers, floats, decimals, received type VARCHAR",
    ),
    "truth out of range": (
        {},
        {"steps": [{"name": "click", "true_reach": "price"}]},
        r"truth column 'price' should hold probabilities in \[0, 1\], received 5 row\(s\)",
    ),
    "text weight": ({}, {"weight": "item"}, r"weight: column 'item' should hold whole numbers"),
    "negative weight": ({"w": [1, -1, 1, 1, 1]}, {"weight": "w"}, r"'w' should hold finite .* >= 0, received 1 row"),
    "null weight": ({"w": [1, None, 1, None, 1]}, {"weight": "w"}, r"'w' should hold finite .* received 2 row"),
    "text time": ({}, {"time": "item"}, r"time: column 'item' should hold dates, timestamps, .* type VARCHAR"),
    "list user": ({}, {"user": "tags"}, r"user: column 'tags' should hold text"),
    "null time": (
        {"t": [1, None, 3, 4, 5]},
        {"time": "t", "target_statistics": [{"columns": ["item"], "earlier_only": True}]},
        r"time: column 't' should be known in every row for earlier_only, received 1 row",
    ),
    "empty part": (
        {"part": ["train", "train", "train", "valid", "tset"]},
        {},
        r"received none for test \(rows: train 3, valid 1, test 0, in no part 1\).*tset \(1 row",
    ),
    "empty part by time": (
        {},
        {"split": by_time("price", 100, 200)},
        r"received none for valid, test .* column 'price': its values run from 1.5 to 5.0",
    ),
    "no positive": ({"buy": [0, 0, 0, 0, 1]}, {}, r"step 'buy': should happen at least once on TRAIN, received 0 pos"),
    "no negative": ({"click": [1, 1, 1, 0, 1]}, {}, r"step 'click': should fail at least once on TRAIN, received 3"),
    "no known transition": (
        {"click": [None, 0, 1, 0, 1]},
        {},
        r"step 'buy': should happen .* where the former step is known to have happened, received 0 of 1",
    ),
    "violation": (
        {"buy": [1, 1, 0, 0, 1]},
        {},
        r"'buy' without 'click' in 1 row\(s\); .* labels.violations = \"drop\" .* \"repair\"",
    ),
    "text border": ({}, {"split": by_time("item", 3, 4)}, r"split.valid_from: column 'item' is of type VARCHAR.* text"),
    "number border": ({}, {"split": by_time("price", "b", "c")}, r"column 'price' .* a number, received 'b'"),
    "border order": ({}, {"split": by_time("price", 4, 3)}, r"valid_from should lie before split.test_from"),
    "list border": ({}, {"split": by_time("tags", "a", "b")}, r"split.column 'tags' should be a date"),
    "value in two parts": (
        {},
        {"split": {"kind": "column", "column": "part", "train": ["train", "test"]}},
        r"split.test should not repeat a value of split.train, received 'test'",
    ),
    "split on list": ({}, {"split": {"kind": "column", "column": "tags"}}, r"split.column 'tags' should hold text"),
}


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, tmp_path: Path) -> None:
    columns, changes, message = CASES[case]
    with pytest.raises(DataError, match=message):
        run(tmp_path, columns, **changes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.parquet"]


@pytest.mark.parametrize(
    ("keys", "steps", "message"),
    [
        (
            [["item"], ["item"]],
            ["click", "buy"],
            r"received twice: stat\(item\).buy, stat\(item\).click, stat\(item\).count",
        ),
        ([["item"]], ["click", {"name": "count", "column": "buy"}], r"received twice: stat\(item\).count"),
        ([["file_row_number"]], ["click", "buy"], r"should go without a raw column 'file_row_number'"),
    ],
)
def test_statistics_that_cannot_be_named(tmp_path: Path, keys: list[Any], steps: list[Any], message: str) -> None:
    columns = {"file_row_number": [1, 2, 3, 4, 5]}
    with pytest.raises(DataError, match=message):
        run(tmp_path, columns, steps=steps, target_statistics=[{"columns": key} for key in keys])


def test_a_weight_that_float32_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"weight: column 'w' should hold finite float32 numbers >= 0, received 1 row"):
        run(tmp_path, {"w": [1.0, 1e300, 1.0, 1.0, 0.0]}, weight="w")


def test_a_label_among_the_features_is_refused() -> None:
    with pytest.raises(ValueError, match="feature 'click' should not use column 'click': it is a label"):
        Description.model_validate(
            {
                "name": "shop",
                "source": {"files": ["x.csv"]},
                "features": [{"name": "click"}],
                "steps": ["click"],
                "split": {"kind": "column", "column": "part"},
            }
        )


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv' should be a file, received nothing there"):
        run(tmp_path, source={"files": [str(tmp_path / "nowhere.csv")]})
    with pytest.raises(DataError, match=r"\*.csv' should match at least one file, received no match"):
        run(tmp_path, source={"files": [str(tmp_path / "*.csv")]})


def test_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "rows.xls").write_text("x")
    with pytest.raises(DataError, match=r"rows.xls: should end in .parquet, .csv or .tsv"):
        run(tmp_path, source={"files": [str(tmp_path / "rows.xls")]})


def test_files_with_unlike_columns(tmp_path: Path) -> None:
    other = {("shown" if name == "price" else name): values for name, values in GOOD.items()}
    pq.write_table(pa.table(other), tmp_path / "zz.parquet")
    with pytest.raises(DataError, match=r"zz.parquet: .* missing: price; not in the first file: shown"):
        run(tmp_path, source={"files": [str(tmp_path / "*.parquet")]})


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more of it, certainly no footer")
    with pytest.raises(DataError, match=r"cut.parquet: should be a readable parquet file, received"):
        run(tmp_path, source={"files": [str(tmp_path / "cut.parquet")]})


def test_parquet_with_a_damaged_page_names_the_file(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        columns = {key: values * 2000 for key, values in GOOD.items()}
        pq.write_table(pa.table(columns), tmp_path / name, compression="zstd", use_dictionary=False)
    damaged = bytearray((tmp_path / "b.parquet").read_bytes())
    damaged[40:400] = b"\xff" * 360
    (tmp_path / "b.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match=r"b.parquet: should be a readable parquet file, received"):
        run(tmp_path, source={"files": [str(tmp_path / "[ab].parquet")]})


def test_csv_that_does_not_parse_names_file_and_line(tmp_path: Path) -> None:
    rows = ["part,item,click,buy"] + ["train,a,1,0"] * 300_000 + ["train,a,maybe,0"]
    (tmp_path / "long.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"long.csv: should be a readable csv file, received: .*Line: 300002"):
        run(tmp_path, source={"files": [str(tmp_path / "long.csv")]})


def test_csv_with_another_delimiter_points_to_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("part|item|click|buy\ntrain|a|1|0\n")
    with pytest.raises(DataError, match=r"is source.delimiter right\?"):
        run(tmp_path, source={"files": [str(tmp_path / "rows.csv")], "delimiter": ";"})
