"""`prepare` end to end on small files with numbers worked out by hand."""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.data import prepare as prepare_module
from funnelcast.data.description import Description
from funnelcast.data.encode import Encoders
from funnelcast.data.prepare import prepare
from funnelcast.data.stage import STAGED_ROW_GROUP
from funnelcast.errors import ArtifactError, ConfigError, DataError
from funnelcast.schema import Schema

ROWS: dict[str, list[Any]] = {
    "day": [1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 9],
    "item": ["a", "b", "a", None, "a", "b", "a", "z", "b", None, "a"],
    "price": [0.0, 1.0, 9.0, None, 9.0, 1.0, 1.0, 500.0, 0.0, 2.0, 1.0],
    "tags": ["x, y", "", "y;", " x ,,y,q", None, "y", "q,x", "x", "y", "x", "x"],
    "click": [1, 0, 1, 1, None, 0, 1, 0, 1, 0, 1],
    "buy": [1, 0, 0, None, None, 0, 1, 0, 0, 0, 1],
}


def describe(source: Path, **changes: Any) -> Description:
    data: dict[str, Any] = {
        "name": "shop",
        "source": {"files": [str(source)]},
        "features": [
            {"name": "item"},
            {"name": "price", "kind": "numeric", "scale": 1.0},
            {"name": "tags", "kind": "multi", "separator": ",", "max_length": 2},
        ],
        "steps": ["click", "buy"],
        "split": {"kind": "column", "column": "day", "train": [1], "valid": [2], "test": [3]},
    }
    return Description.model_validate(data | changes)


def parquet(folder: Path, columns: dict[str, Any], name: str = "rows.parquet") -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path)
    return path


def shards(out: Path, split: str) -> dict[str, list[Any]]:
    tables = [pq.read_table(path) for path in sorted((out / split).glob("part-*.parquet"))]
    result: dict[str, list[Any]] = pa.concat_tables(tables).to_pydict()
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_ids_labels_and_rates_by_hand(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare(describe(parquet(tmp_path, ROWS)), out)
    # TRAIN shows item a three times, b twice; numbers 0, 1 (log1p(1) = 0.69), 2 (log1p(9) = 2.30); tags y, x, "y;", "q"
    # is cut off by max_length 2.
    assert shards(out, "train") == {
        "field.item": [2, 3, 2, 0, 2, 3],
        "field.price": [2, 3, 4, 0, 4, 3],
        "field.tags": [[3, 2], [0], [4], [3, 2], [0], [2]],
        "label.click": [1, 0, 1, 1, None, 0],
        "label.buy": [1, 0, 0, None, None, 0],
    }
    assert shards(out, "valid") == {
        "field.item": [2, 1],
        "field.price": [3, 1],
        "field.tags": [[1, 3], [3]],
        "label.click": [1, 0],
        "label.buy": [1, 0],
    }
    assert shards(out, "test")["field.item"] == [3, 0]
    schema = Schema.load(out / "schema.json")
    assert [(f.name, f.size, f.max_length) for f in schema.fields] == [("item", 4, 1), ("price", 5, 1), ("tags", 5, 2)]
    assert (schema.steps[0].reach_rate, schema.steps[0].transition_rate) == (3 / 5, 3 / 5)
    assert (schema.steps[1].reach_rate, schema.steps[1].transition_rate) == (1 / 4, 1 / 2)
    assert (schema.has_user, schema.has_weight, schema.has_truth) == (False, False, False)
    assert manifest["left_out"] == 1
    train = manifest["splits"]["train"]
    assert (train["rows"], train["observed"], train["positives"]) == (
        6,
        {"click": 5, "buy": 4},
        {"click": 3, "buy": 1},
    )
    assert json.loads((out / "manifest.json").read_text()) == manifest
    for entry in train["files"]:
        data = (out / entry["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert not (out / "violations.parquet").exists()


def test_csv_gives_the_bytes_of_parquet_and_so_does_a_second_run(tmp_path: Path) -> None:
    from pyarrow import csv

    table = pa.table({**ROWS, "tags": [tag or None for tag in ROWS["tags"]]})
    csv.write_csv(table, tmp_path / "rows.csv")
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "elsewhere").mkdir()
    pq.write_table(table, tmp_path / "elsewhere" / "rows.parquet")
    outs = [tmp_path / name for name in ("one", "two", "three")]
    sources = ("rows.parquet", "elsewhere/rows.parquet", "rows.csv")
    for source, out, threads in zip(sources, outs, (1, 2, 2), strict=True):
        prepare(describe(tmp_path / source), out, threads=threads)
    assert contents(outs[0]) == contents(outs[1])
    for split in ("train", "valid", "test"):
        assert shards(outs[0], split) == shards(outs[2], split)
    assert (outs[0] / "encoders.json").read_bytes() == (outs[2] / "encoders.json").read_bytes()


def test_rows_keep_their_order_on_several_threads(tmp_path: Path) -> None:
    """More than two row groups, staged by four threads under a limit that DuckDB alone would find too small."""
    path, rows = tmp_path / "rows.parquet", 3 * STAGED_ROW_GROUP + 17
    duckdb.sql(f"COPY (SELECT i AS item, i % 2 AS click, 0 AS day FROM range({rows}) AS t(i)) TO '{path}'")
    split = {"kind": "hash", "column": "item"}
    prepare(
        describe(path, features=[{"name": "item", "kind": "numeric"}], steps=["click"], split=split, time="item"),
        tmp_path / "out",
        memory_limit="300MB",
        threads=4,
    )
    for part in ("train", "valid", "test"):
        items = shards(tmp_path / "out", part)["time"]
        assert len(items) > 1000 and items == sorted(items)


def test_encoding_raw_rows_gives_what_the_shards_hold(tmp_path: Path) -> None:
    out = tmp_path / "out"
    statistics = [{"columns": ["item"], "smoothing": 2.0, "folds": 2}]
    prepare(describe(parquet(tmp_path, ROWS), target_statistics=statistics), out)
    encoders = Encoders.load(out / "encoders.json")
    assert encoders.fields() == list(Schema.load(out / "schema.json").fields)
    raw = pa.table({name: ROWS[name] for name in ("tags", "item", "day", "price")}).slice(6, 2)
    encoded = encoders.encode(raw).to_pydict()
    assert encoded == {name: values for name, values in shards(out, "valid").items() if name.startswith("field.")}


def test_rows_keep_the_order_of_files_and_lines(tmp_path: Path) -> None:
    rows = 300_000
    for part in range(2):
        numbers = range(part * rows, (part + 1) * rows)
        columns = {"i": list(numbers), "item": [n % 7 for n in numbers], "click": [n % 5 == 0 for n in numbers]}
        parquet(tmp_path, columns, f"rows-{part}.parquet")
    out = tmp_path / "out"
    description = describe(
        tmp_path / "rows-*.parquet",
        features=[{"name": "item"}],
        steps=["click"],
        split={"kind": "time", "column": "i", "valid_from": 400_000, "test_from": 500_000},
        time="i",
    )
    manifest = prepare(description, out, memory_limit="256MB")
    assert [manifest["splits"][split]["rows"] for split in ("train", "valid", "test")] == [400_000, 100_000, 100_000]
    assert shards(out, "train")["time"] == list(range(400_000))
    assert shards(out, "test")["time"] == list(range(500_000, 600_000))
    metadata = pq.read_metadata(out / "train" / "part-00000.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [65_536] * 6 + [6_784]


def test_user_time_weight_and_truth_travel_along(tmp_path: Path) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=8))
    moments = [datetime.datetime(2022, 5, day, 8, tzinfo=zone) for day in range(1, 7)]
    columns = {
        "item": [1, 2, 1, 2, 1, 2],
        "who": ["u", "v", "u", None, "u", "v"],
        "at": pa.array(moments, pa.timestamp("ms", "Asia/Shanghai")),
        "w": [1, 2, 0, 1, 3, 1],
        "click": [True, False, True, False, True, False],
        "p": [0.5, 0.25, 0.5, 0.25, 0.5, 0.25],
    }
    description = describe(
        parquet(tmp_path, columns),
        features=[{"name": "item"}],
        steps=[{"name": "click", "true_reach": "p", "true_transition": "p"}],
        split={"kind": "time", "column": "at", "valid_from": "2022-05-05", "test_from": "2022-05-06"},
        user="who",
        time="at",
        weight="w",
    )
    out = tmp_path / "out"
    prepare(description, out)
    train = pq.read_table(out / "train")
    assert str(train.schema.field("time").type) == "timestamp[us]"
    assert train["time"].to_pylist()[0] == datetime.datetime(2022, 5, 1)  # 08:00 in Shanghai is midnight UTC
    assert (train.num_rows, pq.read_table(out / "test").num_rows) == (4, 1)
    low = int.from_bytes(hashlib.md5(b"u").digest()[8:], "little")  # the second half of MD5, in 63 bits
    assert train["user"][0].as_py() == low >> 1
    assert train["user"][0] == train["user"][2] != train["user"][1]
    assert (train.schema.field("user").type, train.schema.field("weight").type) == (pa.int64(), pa.float32())
    assert train["weight"].to_pylist() == [1.0, 2.0, 0.0, 1.0]
    assert train["truth.reach.click"].to_pylist() == train["truth.transition.click"].to_pylist() == [0.5, 0.25] * 2
    schema = Schema.load(out / "schema.json")
    assert schema.has_truth and not schema.has_potential  # both are there or not, each by itself
    assert "truth.potential.click" not in train.column_names


def test_valid_and_test_rows_do_not_reach_the_encoders(tmp_path: Path) -> None:
    statistics = [{"columns": ["item"]}]
    other = {name: list(values) for name, values in ROWS.items()}
    other["item"][6:10] = ["n1", "n2", "n3", "n4"]
    other["price"][6:10] = [7.0, 77.0, 777.0, 7777.0]
    other["click"][6:10], other["buy"][6:10] = [0, 1, 1, 1], [0, 0, 1, 1]
    for name, columns in (("one", ROWS), ("two", other)):
        source = parquet(tmp_path, columns, f"{name}.parquet")
        prepare(describe(source, target_statistics=statistics), tmp_path / name)
    for file in ("encoders.json", "schema.json", "train/part-00000.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_error_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet(tmp_path, ROWS)

    def broken(*args: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(prepare_module, "_schema", broken)
    with pytest.raises(ArtifactError, match=r"out: the prepared files could not be written: disk full"):
        prepare(describe(source), tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_too_little_memory_is_no_fault_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*args: object) -> None:
        raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block")

    monkeypatch.setattr(prepare_module, "fit_columns", starved)
    with pytest.raises(ConfigError, match=r"larger for these data, .* received 300MB and 2 thread\(s\): Out of Memory"):
        prepare(describe(parquet(tmp_path, ROWS)), tmp_path / "out", memory_limit="300MB", threads=2)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    description = describe(parquet(tmp_path, ROWS))
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"file/out: should be a folder that can be made, received: .*file"):
        prepare(description, tmp_path / "file" / "out")


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(tmp_path: Path) -> None:
    source = parquet(tmp_path, ROWS)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"used: should be a new or empty folder"):
        prepare(describe(source), tmp_path / "used")
    assert (tmp_path / "used" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    prepare(describe(source), tmp_path / "empty")
    assert (tmp_path / "empty" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"memory_limit": "lots"}, "'lots'"), ({"memory_limit": "10MB"}, "256MB"), ({"threads": 0}, "at least 1")],
)
def test_impossible_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(describe(parquet(tmp_path, ROWS)), tmp_path / "out", **options)


def test_preparation_does_not_import_torch() -> None:
    code = (
        "import sys, funnelcast.data.prepare, funnelcast.data.encode, funnelcast.data.description; "
        "raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
