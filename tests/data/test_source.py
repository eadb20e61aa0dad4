"""Raw files of many makes: what a cell means is what its file says, for preparation and for prediction alike."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelcast.data.description import Description, load_description
from funnelcast.data.encode import Encoders
from funnelcast.data.prepare import prepare
from funnelcast.errors import DataError

PARTS = ["train"] * 4 + ["valid", "test"]
CLICKS = [1, 0, 1, 0, 0, 1]
BUYS = [1, 0, 0, 0, 0, 0]


def run(out: Path, file: Path, features: list[dict[str, Any]], **changes: Any) -> dict[str, list[Any]]:
    """Prepare, and give the columns of all shards in the order of the rows."""
    data: dict[str, Any] = {
        "name": "shop",
        "source": {"files": [str(file)]},
        "features": features,
        "steps": ["click", "buy"],
        "split": {"kind": "column", "column": "part"},
    }
    prepare(Description.model_validate(data | changes), out, threads=1)
    tables = [pq.read_table(out / part) for part in ("train", "valid", "test")]
    columns: dict[str, list[Any]] = pa.concat_tables(tables).to_pydict()
    return columns


def csv(folder: Path, items: list[str]) -> Path:
    rows = [f"{part},{item},{c},{b}" for part, item, c, b in zip(PARTS, items, CLICKS, BUYS, strict=True)]
    (folder / "rows.csv").write_text("\n".join(["part,item,click,buy", *rows]) + "\n", encoding="utf-8")
    return folder / "rows.csv"


def parquet(folder: Path, **columns: Any) -> Path:
    table = pa.table({"part": PARTS, "click": CLICKS, "buy": BUYS, **columns})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize(
    "written",
    [
        ["yes", "no", "yes", "yes", "no", "yes"],
        ["T", "F", "T", "T", "F", "T"],
        ["31/05/2022", "01/06/2022", "31/05/2022", "31/05/2022", "01/06/2022", "31/05/2022"],
        ["12:30", "09:15", "12:30", "12:30", "09:15", "12:30"],
        ["18446744073709551615", "18446744073709551614", *["18446744073709551615"] * 4],
    ],
)
def test_a_category_of_csv_is_the_text_that_stands_there(tmp_path: Path, written: list[str]) -> None:
    shards = run(tmp_path / "out", csv(tmp_path, written), [{"name": "item"}])
    assert shards["field.item"] == [2 if text == written[0] else 3 for text in written]
    encoders = Encoders.load(tmp_path / "out" / "encoders.json")
    assert encoders.encode(pa.table({"item": written}))["field.item"].to_pylist() == shards["field.item"]


@pytest.mark.parametrize("written", ["true", "True", "TRUE"])
def test_true_of_csv_is_the_truth_value(tmp_path: Path, written: str) -> None:
    shards = run(tmp_path / "out", csv(tmp_path, [written, "false", *[written] * 4]), [{"name": "item"}])
    encoders = Encoders.load(tmp_path / "out" / "encoders.json")
    ids = encoders.encode(pa.table({"item": [True, False, None]}))["field.item"].to_pylist()
    assert ids == [shards["field.item"][0], shards["field.item"][1], 0] == [2, 3, 0]


def test_a_date_may_split_and_be_a_category(tmp_path: Path) -> None:
    file = csv(tmp_path, [f"2022-05-0{day}" for day in (1, 1, 2, 2, 3, 4)])
    split = {"kind": "time", "column": "item", "valid_from": "2022-05-03", "test_from": datetime.date(2022, 5, 4)}
    shards = run(tmp_path / "out", file, [{"name": "item"}], split=split)
    assert shards["field.item"] == [2, 2, 3, 3, 1, 1]


def test_a_second_wider_header_does_not_hide_the_rows_before_it(tmp_path: Path) -> None:
    file = csv(tmp_path, ["a"] * 6)
    wide = [f"{part},b,{c},{b},9" for part, c, b in zip(PARTS, CLICKS, BUYS, strict=True)]
    file.write_text(file.read_text() + "\n".join(["part,item,click,buy,more", *wide]) + "\n")
    with pytest.raises(DataError, match=r"has every line as many cells\?"):
        run(tmp_path / "out", file, [{"name": "item"}])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_with_a_zone_are_brought_to_utc(tmp_path: Path, unit: str) -> None:
    start = datetime.datetime(2022, 5, 1, tzinfo=datetime.UTC)
    moments = [start + datetime.timedelta(hours=12 * i) for i in range(6)]
    file = parquet(tmp_path, item=[1] * 6, at=pa.array(moments, pa.timestamp(unit, "Asia/Shanghai")))
    split = {"kind": "time", "column": "at", "valid_from": "2022-05-03", "test_from": "2022-05-03T20:00+08:00"}
    shards = run(tmp_path / "out", file, [{"name": "item"}], split=split, time="at")
    assert shards["time"] == [moment.replace(tzinfo=None) for moment in moments]
    rows = [pq.read_table(tmp_path / "out" / part).num_rows for part in ("train", "valid", "test")]
    assert rows == [4, 1, 1]


@pytest.mark.parametrize("encoder", [{}, {"encoder": "hash", "buckets": 1000}])
def test_unsigned_ids_beyond_int64(tmp_path: Path, encoder: dict[str, Any]) -> None:
    ids = [2**64 - 1, 7, 2**64 - 1, 2**64 - 1, 7, 2**63]
    arrays = {"item": pa.array(ids, pa.uint64()), "basket": pa.array([[i, 7] for i in ids], pa.list_(pa.uint64()))}
    features = [{"name": "item", **encoder}, {"name": "basket", "kind": "multi", "max_length": 2, **encoder}]
    shards = run(tmp_path / "out", parquet(tmp_path, **arrays), features)
    if not encoder:
        assert shards["field.item"] == [2, 3, 2, 2, 3, 1]
        assert shards["field.basket"] == [[3, 2], [2, 2], [3, 2], [3, 2], [2, 2], [1, 2]]
    encoders = Encoders.load(tmp_path / "out" / "encoders.json")
    for start, stop in ((0, 6), (1, 2)):  # a batch without a large number, too
        part = pa.table(arrays).slice(start, stop - start)
        encoded = encoders.encode(part)
        assert {name: encoded[name].to_pylist() for name in encoded.column_names} == {
            name: shards[name][start:stop] for name in ("field.item", "field.basket")
        }


def test_whole_numbers_may_name_parts_in_a_column_of_floats(tmp_path: Path) -> None:
    file = parquet(tmp_path, item=[1] * 6, week=[0.0, 0.0, 0.5, 0.5, 1.0, 2.0])
    split = {"kind": "column", "column": "week", "train": [0, "0.5"], "valid": ["1.0"], "test": ["2"]}
    assert run(tmp_path / "out", file, [{"name": "item"}], split=split)["field.item"] == [2] * 6


def test_the_name_of_a_folder_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "shop [new]"
    folder.mkdir()
    parquet(folder, item=["a"] * 6)
    text = """
        features = [{name = "item"}]
        steps = ["click", "buy"]
        split = {kind = "column", column = "part"}
        source = {files = ["%s"]}
    """
    for number, files in enumerate(("*.parquet", "rows.parquet")):
        (folder / "shop.toml").write_text(text % files)
        manifest = prepare(load_description(folder / "shop.toml"), tmp_path / f"out{number}", threads=1)
        assert manifest["splits"]["train"]["rows"] == 4


cells = st.one_of(st.none(), st.sampled_from(["a", " a", "", "é", 'q"', "it's", "true"]))
numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -0.0, 1.5]))


@given(
    text=st.lists(cells, min_size=6, max_size=6),
    whole=st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=6, max_size=6),
    lists=st.lists(st.one_of(st.none(), st.lists(cells, max_size=4)), min_size=6, max_size=6),
    number=st.lists(numbers, min_size=6, max_size=6),
)
@settings(max_examples=5, deadline=None)
def test_prediction_encodes_any_rows_as_preparation_did(
    text: list[Any], whole: list[Any], lists: list[Any], number: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    arrays = {
        "text": pa.array(text, pa.string()),
        "whole": pa.array(whole, pa.int64()),
        "lists": pa.array(lists, pa.list_(pa.string())),
        "number": pa.array(number, pa.float64()),
    }
    features: list[dict[str, Any]] = [
        {"name": "text"},
        {"name": "whole"},
        {"name": "bucket", "column": "whole", "encoder": "hash", "buckets": 3},
        {"name": "lists", "kind": "multi", "max_length": 2},
        {"name": "parts", "column": "text", "kind": "multi", "separator": "'", "max_length": 2},
        {"name": "rounded", "column": "number", "kind": "numeric"},
        {"name": "number", "kind": "numeric", "encoder": "quantile", "buckets": 2},
    ]
    shards = run(folder / "out", parquet(folder, **arrays), features)
    encoded = Encoders.load(folder / "out" / "encoders.json").encode(pa.table(arrays))
    assert encoded.to_pydict() == {name: shards[name] for name in encoded.column_names}
    for name in ("text", "whole"):  # whatever TRAIN shows is known
        assert 1 not in shards[f"field.{name}"][:4]
