"""Fitting in SQL: order of vocabularies, minimum counts, equal-mass buckets; quoting of names and values."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelcast.data.description import Description
from funnelcast.data.encode import Quantile
from funnelcast.data.fit import fit_columns, quantile_lows
from funnelcast.data.sql import bytes_of, identifier, literal
from funnelcast.data.stage import PART
from funnelcast.errors import ConfigError
from funnelcast.progress import RowProgress


def fit(folder: Path, columns: dict[str, Any], *features: dict[str, Any]) -> list[Any]:
    pq.write_table(pa.table(columns), folder / "staged.parquet", row_group_size=3)
    description = Description.model_validate(
        {
            "name": "x",
            "source": {"files": ["x"]},
            "features": list(features),
            "steps": ["click"],
            "split": {"kind": "hash", "column": "x"},
        }
    )
    with duckdb.connect() as connection, RowProgress("fit", None) as progress:
        return list(fit_columns(connection, description, folder / "staged.parquet", progress))


def test_vocabularies_are_ordered_by_count_then_value(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "text": ["b", "a", "b", "a", "c", None, "Z", "d", "d", "d"],
        "number": [9, 10, 9, 10, -1, None, 3, 4, 4, 4],
        PART: [0, 0, 0, 0, 0, 0, 0, 1, 2, 3],
    }
    text, frequent, number = fit(
        tmp_path, columns, {"name": "text"}, {"name": "often", "column": "text", "min_count": 2}, {"name": "number"}
    )
    assert text.values.to_pylist() == ["a", "b", "Z", "c"]
    assert frequent.values.to_pylist() == ["a", "b"]
    assert number.values.to_pylist() == [9, 10, -1, 3]
    assert (text.value_type, number.value_type) == ("string", "int64")


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        ([True, False, True, None], ["true", "false"]),
        ([2.0, 7.0, 2.0, None], [2, 7]),
        ([datetime.date(2022, 5, 4)] * 2 + [datetime.date(2022, 5, 3), None], ["2022-05-04", "2022-05-03"]),
        (pa.array([None] * 4, pa.string()), []),
    ],
)
def test_value_types(tmp_path: Path, column: Any, wanted: list[Any]) -> None:
    [encoder] = fit(tmp_path, {"x": column, PART: [0] * 4}, {"name": "x"})
    assert encoder.values.to_pylist() == wanted


def test_multi_valued_vocabularies_follow_the_rules_of_encoding(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "text": ["a, b,c", "\tb ,, a", "", None, "q"],
        "words": [["x", " x ", "y"], ["x", ""], None, [None, "z"], ["q"]],
        "numbers": [[5, None, 6, 7], [6], [], None, [9]],
        PART: [0, 0, 0, 0, 1],
    }
    text, words, numbers = fit(
        tmp_path,
        columns,
        {"name": "text", "kind": "multi", "separator": ",", "max_length": 2},
        {"name": "words", "kind": "multi"},
        {"name": "numbers", "kind": "multi", "max_length": 2},
    )
    assert text.values.to_pylist() == ["a", "b"]
    assert numbers.values.to_pylist() == [6, 5]
    for encoder, column in ((text, "text"), (words, "words"), (numbers, "numbers")):
        encoded = encoder.apply(pa.array(columns[column][:4])).to_pylist()
        assert all(id_ != 1 for row in encoded for id_ in row), column  # TRAIN's own values are never unknown


def test_numbers_take_train_rows_only(tmp_path: Path) -> None:
    columns = {"x": [0.0, 1.0, None, float("nan"), float("inf"), 50.0], PART: [0, 0, 0, 0, 0, 1]}
    log_round, quantile = fit(
        tmp_path,
        columns,
        {"name": "x", "kind": "numeric", "scale": 1.0},
        {"name": "y", "column": "x", "kind": "numeric", "encoder": "quantile", "buckets": 2},
    )
    assert log_round.seen == (0, 1)
    assert quantile.lows == (0.0, 1.0)


def lows(values: list[float], buckets: int) -> tuple[float, ...]:
    table = ", ".join(f"({literal(value)})" for value in values)
    with duckdb.connect() as connection:
        return quantile_lows(connection, "x", f"(VALUES {table}) AS t(x) WHERE TRUE", buckets)


def test_quantile_edges_by_hand() -> None:
    assert lows([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3) == (1.0, 3.0, 5.0)
    assert lows([7.0] * 9, 4) == (7.0,)  # a constant has one bucket
    # Middles of the mass: 1 at 0.1, 0 at ... the frequent value 0 keeps a bucket of its own.
    assert lows([0.0] * 8 + [1.0, 2.0], 2) == (0.0, 1.0)
    assert lows([-5.0] + [0.0] * 8 + [1.0], 4) == (-5.0, 0.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=30, max_size=200, unique=True), st.integers(2, 6))
def test_distinct_values_fall_into_buckets_of_equal_mass(values: list[int], buckets: int) -> None:
    found = lows([float(value) for value in values], buckets)
    counts = np.bincount(Quantile("x", "x", found).ids(np.array(values, np.float64)))[2:]
    assert len(counts) == buckets
    assert counts.max() - counts.min() <= 1


def test_odd_names_and_values_survive_sql(tmp_path: Path) -> None:
    name = "a \"quoted\"; DROP TABLE 'x' --é"
    [encoder] = fit(tmp_path, {name: ["it's", 'say "x"'], PART: [0, 0]}, {"name": name})
    assert encoder.values.to_pylist() == ["it's", 'say "x"']
    with duckdb.connect() as connection:
        values = ["it's", True, -3, 1e-300, datetime.date(2022, 5, 4), datetime.datetime(2022, 5, 4, 1, 2, 3, 4)]
        query = "SELECT " + ", ".join(f"{literal(value)} AS {identifier(str(k))}" for k, value in enumerate(values))
        assert list(connection.execute(query).fetchall()[0]) == values
    with pytest.raises(TypeError, match="received list"):
        literal([1])


def test_memory_limits() -> None:
    assert bytes_of("1GB") == 10**9
    assert bytes_of(" 0.5 gib ") == 2**29
    for wrong in ("1", "GB", "-1GB", "1 XB", "255MB"):
        with pytest.raises(ConfigError, match="memory limit should be"):
            bytes_of(wrong)


def test_a_column_called_like_a_name_inside_the_query(tmp_path: Path) -> None:
    columns = {PART: [0, 0, 0, 0], "x": [1.0, 2.0, 3.0, 4.0], "n": [9, 8, 7, 6], "price": [10.0, 10.0, 20.0, 30.0]}
    features = [{"name": name, "kind": "numeric", "encoder": "quantile", "buckets": 2} for name in ("x", "n", "price")]
    assert [encoder.lows for encoder in fit(tmp_path, columns, *features)] == [(1.0, 3.0), (6.0, 8.0), (10.0, 20.0)]


@given(
    cells=st.lists(
        st.one_of(
            st.none(),
            st.lists(st.one_of(st.none(), st.sampled_from(["a", " a", "b\t", "", " ", "c"])), max_size=5),
        ),
        min_size=1,
        max_size=12,
    ),
    max_length=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_every_item_of_train_lists_is_known(
    cells: list[list[str | None] | None], max_length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    columns = {PART: [0] * len(cells), "tags": pa.array(cells, pa.list_(pa.string()))}
    (encoder,) = fit(folder, columns, {"name": "tags", "kind": "multi", "max_length": max_length})
    kept = [[t.strip() for t in cell or [] if t and t.strip()][:max_length] for cell in cells]
    assert set(encoder.values.to_pylist()) == {item for cell in kept for item in cell}
    wanted = [[encoder.values.to_pylist().index(item) + 2 for item in cell] or [0] for cell in kept]
    assert encoder.apply(columns["tags"]).to_pylist() == wanted


def test_nan_in_a_list_takes_no_place(tmp_path: Path) -> None:
    columns = {PART: [0, 0], "tags": [[float("nan"), 1.0, 2.0], [2.0]]}
    (encoder,) = fit(tmp_path, columns, {"name": "tags", "kind": "multi", "max_length": 2})
    assert encoder.values.to_pylist() == [2, 1]
    assert encoder.apply(pa.array(columns["tags"])).to_pylist() == [[3, 2], [2]]
