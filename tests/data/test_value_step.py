"""A last step of kind `value`: what `prepare` writes of it, with numbers worked out by hand, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from tests.shop_on_disk import describe_shop, prepare_shop

from funnelcast.data.description import Description, load_description
from funnelcast.data.loader import Loader
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError
from funnelcast.schema import Field, Schema, Step, StepValue

ROWS: dict[str, Any] = {
    "part": ["train"] * 7 + ["valid", "test", "test"],
    "item": ["a", "b", "a", "b", "a", "b", "a", "a", "b", "a"],
    "click": [1, 1, 1, 1, 0, None, 1, 1, 1, 0],
    "spend": [2.0, 8.0, 0.0, None, 0.0, 0.0, math.nan, 4.0, 0.5, 0.0],
}
STEPS: list[Any] = ["click", {"name": "spend", "kind": "value"}]


def describe(source: Path, **changes: Any) -> Description:
    return describe_shop(source, **{"steps": STEPS, **changes})


def run(folder: Path, columns: dict[str, Any] | None = None, **changes: Any) -> Path:
    return prepare_shop(folder, **{"steps": STEPS, "columns": ROWS | (columns or {}), **changes})


def test_labels_values_and_statistics_by_hand(tmp_path: Path) -> None:
    """The label is `spend` above 0; null and NaN are unobserved; statistics are those of 2 and 8 on TRAIN."""
    out = run(tmp_path)
    data = PreparedData(out)
    shard = pq.read_table(next((out / "train").glob("*.parquet")))
    assert shard["label.spend"].to_pylist() == [1, 1, 0, None, 0, 0, None]
    assert shard["value.spend"].to_pylist() == [2.0, 8.0, 0.0, None, 0.0, 0.0, None]
    assert shard["value.spend"].type == pa.float32()
    step = data.schema.value_step
    assert step is not None and step is data.schema.steps[1] and step.value is not None
    assert [s.kind for s in data.schema.steps] == ["event", "value"]
    assert (step.reach_rate, step.transition_rate) == (2 / 5, 2 / 3)
    assert step.value.mean == 5.0
    assert step.value.log_mean == pytest.approx(math.log(4.0))
    assert step.value.log_std == pytest.approx(math.log(2.0))
    assert Schema.load(out / "schema.json") == data.schema
    batch = next(Loader(data, Split.TRAIN, 10).in_order())
    assert batch.value is not None
    assert batch.value.tolist() == [2.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert batch.value.dtype is torch.float32
    assert batch.observed[:, 1].tolist() == [True, True, True, False, True, True, False]
    assert batch.labels[:, 1].tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_values_stay_with_their_rows_when_shuffled_and_streamed(tmp_path: Path) -> None:
    spend = [float(i % 7) for i in range(60)]
    columns = {
        "part": (["train"] * 4 + ["valid", "test"]) * 10,
        "item": [f"i{i}" for i in range(60)],
        "click": [int(value > 0) for value in spend],
        "spend": spend,
    }
    data = PreparedData(run(tmp_path, columns, steps=["click", {"name": "buy", "column": "spend", "kind": "value"}]))
    for memory in (1 << 30, 0):
        seen = []
        for batch in Loader(data, Split.TRAIN, 7, memory).epoch(0, 0):
            assert batch.value is not None
            assert torch.equal(batch.value > 0, batch.labels[:, 1] > 0.5)
            seen += list(zip(batch.ids[:, 0].tolist(), batch.value.tolist(), strict=True))
        assert sorted(value for _, value in seen) == sorted(v for i, v in enumerate(spend) if i % 6 < 4)
        shard = pq.read_table(next((data.folder / "train").glob("*.parquet")))
        pairs = zip(shard["field.item"].to_pylist(), shard["value.buy"].to_pylist(), strict=True)
        assert sorted(seen) == sorted(pairs)


def test_a_repaired_row_loses_its_value_and_a_dropped_one_goes(tmp_path: Path) -> None:
    broken = {"click": [0, *ROWS["click"][1:]]}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    repaired = pq.read_table(run(tmp_path / "a", broken, labels={"violations": "repair"}) / "train")
    assert repaired["label.spend"].to_pylist()[:2] == [0, 1]
    assert repaired["value.spend"].to_pylist()[:2] == [0.0, 8.0]
    dropped = run(tmp_path / "b", broken, labels={"violations": "drop"})
    assert pq.read_table(dropped / "train")["value.spend"].to_pylist()[0] == 8.0
    value = Schema.load(dropped / "schema.json").steps[1].value
    assert value == StepValue(mean=8.0, log_mean=math.log(8.0), log_std=0.0)
    with pytest.raises(DataError, match=r"'spend' without 'click' in 1 row\(s\)"):
        run(tmp_path, broken)


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint64(), pa.decimal128(12, 2), pa.float32()])
def test_any_kind_of_number_is_a_value(kind: pa.DataType, tmp_path: Path) -> None:
    spend = pa.array([2, 8, 0, None, 0, 0, None, 4, 1, 0]).cast(pa.int32()).cast(kind)
    values = pq.read_table(run(tmp_path, {"spend": spend}) / "train")["value.spend"].to_pylist()
    assert values == [2.0, 8.0, 0.0, None, 0.0, 0.0, None]


def test_a_csv_file_gives_the_same(tmp_path: Path) -> None:
    lines = ["part,item,click,spend"]
    lines += [",".join("" if v is None else str(v) for v in row) for row in zip(*ROWS.values(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    prepare(describe(tmp_path / "rows.csv"), tmp_path / "csv")
    (tmp_path / "p").mkdir()
    parquet = run(tmp_path / "p")
    assert (tmp_path / "csv" / "schema.json").read_bytes() == (parquet / "schema.json").read_bytes()


def test_a_funnel_of_events_has_no_value(tmp_path: Path) -> None:
    out = run(tmp_path, {"spend": [1, 1, 0, None, 0, 0, 0, 1, 0, 0]}, steps=["click", "spend"])
    assert "value.spend" not in pq.read_table(out / "train").column_names
    data = PreparedData(out)
    assert data.schema.value_step is None
    assert next(Loader(data, Split.TRAIN, 10).in_order()).value is None


@pytest.mark.parametrize(
    ("bad", "received"), [(-1.5, "-1.5"), (math.inf, "inf"), (1e39, r"1e\+39"), (1e-40, "1e-40"), (-0.01, "-0.01")]
)
def test_a_bad_value_is_named_with_file_column_and_row(bad: float, received: str, tmp_path: Path) -> None:
    spend = [*ROWS["spend"][:4], 0.0, bad, bad, *ROWS["spend"][7:]]
    message = (
        rf"step 'spend': column 'spend' should hold finite float32 numbers >= 0, or null, received {received} in row 6 "
        rf"of \S+rows\.parquet \(bad rows: 2\)"
    )
    with pytest.raises(DataError, match=message):
        run(tmp_path, {"spend": spend, "click": [1] * 10})


def test_rows_are_counted_through_several_files(tmp_path: Path) -> None:
    for name, spend in (("a", ROWS["spend"]), ("b", [*ROWS["spend"][:9], -2.0])):
        pq.write_table(pa.table(ROWS | {"spend": spend}), tmp_path / f"{name}.parquet")
    description = describe(tmp_path / "*.parquet")
    with pytest.raises(
        DataError, match=r"received -2.0 in row 20 of \S+a.parquet and 1 more file\(s\), counted through"
    ):
        prepare(description, tmp_path / "out")


def test_text_and_booleans_are_no_values(tmp_path: Path) -> None:
    for column, kind in ((["2"] * 10, "VARCHAR"), ([True] * 10, "BOOLEAN")):
        message = rf"step 'spend': value column 'spend' should hold whole numbers, floats, decimals, .* type {kind}"
        with pytest.raises(DataError, match=message):
            run(tmp_path, {"spend": column})


def test_only_the_last_step_may_have_a_value(tmp_path: Path) -> None:
    message = r"step 'spend': only the last step \('click'\) may have the kind 'value'"
    with pytest.raises(ValidationError, match=message):
        describe(tmp_path / "rows.parquet", steps=STEPS[::-1])
    value = StepValue(mean=1.0, log_mean=0.0, log_std=1.0)
    steps = (
        Step(name="spend", reach_rate=0.5, transition_rate=0.5, value=value),
        Step(name="click", reach_rate=0.5, transition_rate=0.5),
    )
    with pytest.raises(ValidationError, match=message):
        Schema(dataset="shop", fields=(Field(name="item", size=5),), steps=steps)


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(
        'steps = [{name = "click"}, {name = "spend", kind = "amount"}]\n'
        'source = {files = ["rows.parquet"]}\nfeatures = [{name = "item"}]\n'
        'split = {kind = "column", column = "part"}\n'
    )
    message = r"shop.toml: key 'steps.1.kind': Input should be 'event' or 'value'; received 'amount'"
    with pytest.raises(ConfigError, match=message):
        load_description(tmp_path / "shop.toml")


def test_a_value_is_no_feature(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="should not use column 'spend': it is a label or truth of step 'spend'"):
        describe(tmp_path / "rows.parquet", features=[{"name": "spend", "kind": "numeric"}])
