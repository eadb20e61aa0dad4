from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from funnelcast.data.encode import Encoders, HashBuckets, LogRound, Quantile, Vocabulary
from funnelcast.data.encode_categories import Multi
from funnelcast.schema import Field, Schema, Step
from funnelcast.trees._columns import Column, Columns

WORDS = pa.array(["a", "b", "c"])
ENCODERS = Encoders(
    [
        Vocabulary("item", "item", WORDS),
        HashBuckets("page", "page", 7),
        Vocabulary("tags", "tags", WORDS, Multi(None, 2)),
        LogRound("price", "price", 2.0, (0, 1)),
        Quantile("age", "age", (1.0, 2.0, 3.0)),
    ]
)
SCHEMA = Schema(
    dataset="shop",
    fields=tuple(ENCODERS.fields()),
    steps=(Step(name="click", reach_rate=0.5, transition_rate=0.5),),
)
IDS = np.array([[2, 8, 3, 0, 3, 4], [1, 2, 1, 4, 1, 0], [0, 3, 0, 0, 0, 2]])  # item, page, tags, price, age


def test_ordered_columns_by_hand() -> None:
    columns = Columns.of(SCHEMA, ENCODERS, 0, 0)
    assert [column.kind for column in columns.members] == ["rank", "rank", "rank", "rank", "bucket", "bucket"]
    missing = np.nan
    expected = [
        [2, 8, 3, missing, 3, 4],
        [5, 2, 5, 4, missing, missing],  # unknown stands behind the 5 ids of a vocabulary, and is no bucket
        [missing, 3, missing, missing, missing, 2],
    ]
    np.testing.assert_array_equal(columns.matrix(IDS), expected)
    assert columns.categorical == []


def test_classes_and_indicators_by_hand() -> None:
    columns = Columns.of(SCHEMA, ENCODERS, 5, 2)  # the item has 5 ids, the page 9
    titles = [(column.title, column.kind) for column in columns.members]
    assert titles == [
        *(("item", "category"), ("page", "rank"), ("tags=1", "has"), ("tags=2", "has")),
        *(("price", "bucket"), ("age", "bucket")),
    ]
    expected = [[2, 8, 0, 0, 3, 4], [1, 2, 1, 0, np.nan, np.nan], [0, 3, 0, 0, np.nan, 2]]
    np.testing.assert_array_equal(columns.matrix(IDS), expected)
    assert columns.categorical == [0]


def test_an_indicator_looks_at_every_place() -> None:
    columns = Columns.of(SCHEMA, ENCODERS, 0, 64)
    has = [number for number, column in enumerate(columns.members) if column.kind == "has"]
    assert [columns.members[number].id for number in has] == [1, 2, 3, 4]
    np.testing.assert_array_equal(columns.matrix(IDS)[:, has], [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]])


def test_ids_beyond_float32_stay_apart() -> None:
    large = 1 << 25
    narrow, wide = (Columns((Column("user", 0, "category", size),)) for size in (1 << 24, large))
    assert narrow.dtype is np.float32 and wide.dtype is np.float64
    first, second = wide.matrix(np.array([[large - 2], [large - 1]], np.int32))[:, 0]
    assert (first, second) == (large - 2, large - 1)


def test_json_round_trip_and_mistakes() -> None:
    columns = Columns.of(SCHEMA, ENCODERS, 5, 2)
    assert Columns.from_json(columns.to_json(), SCHEMA.width) == columns
    with pytest.raises(ValueError, match="should look at one of 3 ids in a known way"):
        Columns.from_json(columns.to_json(), 3)
    with pytest.raises(ValueError, match="known way"):
        Columns.from_json([{**columns.to_json()[0], "kind": "code"}], 6)
    with pytest.raises(TypeError):
        Columns.from_json([{"field": "item"}], 6)


def test_schema_agrees_with_the_encoders() -> None:
    assert SCHEMA.width == IDS.shape[1]
    assert SCHEMA.fields[1] == Field(name="page", size=9)
