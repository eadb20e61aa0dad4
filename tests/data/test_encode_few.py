"""Few rows get the ids that many rows get, whatever the encoders and the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelcast.data.encode import Encoders, HashBuckets, KeyStatistics, LogRound, Multi, Quantile, Vocabulary
from funnelcast.data.encode_few import FewRows, Repeated
from funnelcast.data.ids import ids_matrix
from funnelcast.schema import Schema, Step

WHOLE = st.integers(-4, 12) | st.integers(-(2**63), 2**63 - 1)
TEXT = st.sampled_from(["a", "b", " a", "", "1", "0", "true", "false", "a|b", "|", "é", "\t"]) | st.text(max_size=5)
FLOAT = st.floats(allow_nan=False) | st.sampled_from([-0.0, 0.0, 1e-320, 2.0**53, 1e308])
ITEMS: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "whole": (WHOLE, pa.int64()),
    "text": (TEXT, pa.string()),
    "number": (FLOAT, pa.float64()),
}


@st.composite
def encoders_of(draw: st.DrawFn, kind: str) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """An encoder of a column `x`, its raw type, and its cells."""
    item, item_type = ITEMS[kind]
    multi = draw(st.sampled_from([None, Multi(None, 2)])) if kind != "number" else None
    if kind == "text" and draw(st.booleans()):
        multi = Multi("|", draw(st.integers(1, 3)))
    name, column = "field", "x"
    if kind == "number" or (multi is None and kind == "whole" and draw(st.booleans())):
        lows = tuple(sorted(set(draw(st.lists(FLOAT.filter(np.isfinite), max_size=6)))))
        seen = tuple(sorted(set(draw(st.lists(st.integers(-60, 60), max_size=30)))))
        encoder: Any = draw(
            st.sampled_from([Quantile(name, column, lows), LogRound(name, column, draw(st.floats(0.5, 8.0)), seen)])
        )
    elif draw(st.booleans()):
        encoder = HashBuckets(name, column, draw(st.integers(2, 50)), multi)
    else:
        flags = st.lists(st.sampled_from(["true", "false"]), min_size=1, unique=True)
        values = draw(flags if kind == "text" and draw(st.booleans()) else st.lists(item, unique=True, max_size=8))
        encoder = Vocabulary(name, column, pa.array(values, item_type if values else pa.string()), multi)
    if multi is not None and multi.separator is None:
        return encoder, pa.list_(item_type), st.lists(item | st.none(), max_size=4)
    return encoder, item_type, item


def both(encoders: Encoders, cells: dict[str, list[Any]], types: dict[str, pa.DataType]) -> tuple[Any, Any]:
    schema = Schema(
        dataset="d", fields=tuple(encoders.fields()), steps=(Step(name="a", reach_rate=0.5, transition_rate=0.5),)
    )
    few = FewRows(encoders.columns, encoders.statistics)
    assert few.usable
    table = pa.table({name: pa.array(values, types[name]) for name, values in cells.items()})
    found = few.ids(cells)
    same = {name: Repeated(values[0], len(values)) for name, values in cells.items() if len({*map(str, values)}) == 1}
    np.testing.assert_array_equal(few.ids({**cells, **same}), found)
    return found, ids_matrix(encoders.encode(table), schema)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), kind=st.sampled_from([*ITEMS]))
def test_every_kind_of_encoder(data: st.DataObject, kind: str) -> None:
    encoder, raw_type, cell = data.draw(encoders_of(kind))
    cells = data.draw(st.lists(st.none() | cell, min_size=1, max_size=8))
    found, expected = both(Encoders([encoder]), {"x": cells}, {"x": raw_type})
    assert found.dtype == np.int32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0, 8.0, 1e6])
def test_logarithms_at_the_border_of_two_buckets(scale: float) -> None:
    borders = np.expm1((np.arange(0, 60) + 0.5) / scale)
    cells = [
        float(sign * x) for x in borders for x in (np.nextafter(x, 0), x, np.nextafter(x, 2 * x)) for sign in (1, -1)
    ]
    encoder = LogRound("field", "x", scale, tuple(range(-50, 55)))
    found, expected = both(Encoders([encoder]), {"x": cells}, {"x": pa.float64()})
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 50


@pytest.mark.parametrize("given_count", [1, 3])
def test_one_value_for_all_rows(given_count: int) -> None:
    lists = Vocabulary("tags", "tags", pa.array(["a", "b"]), Multi(None, 3))
    few = FewRows([lists, Quantile("age", "age", (18.0, 30.0))], [])
    cells = {"tags": Repeated(["b", "?"], given_count), "age": Repeated(31.0, given_count)}
    assert few.ids(cells).tolist() == [[3, 1, 0, 3]] * given_count


@settings(max_examples=100, deadline=None)
@given(data=st.data(), smoothing=st.floats(0.1, 50), ordered=st.booleans())
def test_target_statistics(data: st.DataObject, smoothing: float, ordered: bool) -> None:
    small, text = st.none() | st.integers(0, 4), st.none() | st.sampled_from(["a", "b", "c"])
    groups = data.draw(st.lists(st.tuples(small, text), min_size=1, max_size=9, unique=True))
    counts = data.draw(st.lists(st.integers(1, 40), min_size=len(groups), max_size=len(groups)))
    table = pa.table(
        {
            "key0": pa.array([a for a, _ in groups], pa.int64()),
            "key1": pa.array([b for _, b in groups], pa.string()),
            "rows": counts,
            "hits0": [n // 2 for n in counts],
            "seen0": counts,
        }
    )
    statistic = KeyStatistics.fit(("x", "y"), table, 1, smoothing)
    statistic = statistic.with_buckets(["a"], [(0.0, 0.3, 0.45)], (2, 6, 10))
    encoders = Encoders([Vocabulary("x", "x", pa.array([1, 2]))] if ordered else [], [statistic])
    if ordered:
        encoders.keep_dictionaries()
    cells: dict[str, list[Any]] = {
        "x": data.draw(st.lists(small | st.integers(), min_size=3, max_size=3)),
        "y": [None, "a", "never"],
    }
    cells["x"] = [value if value is None or abs(value) < 2**63 else 0 for value in cells["x"]]
    found, expected = both(encoders, cells, {"x": pa.int64(), "y": pa.string()})
    np.testing.assert_array_equal(found, expected)


def test_large_spans_and_the_ends_of_whole_numbers() -> None:
    for values in ([5, 10**15, -7], [-3, 0, 4], [2**63 - 1], [-(2**63)]):
        cells = [*values, None, 2**63 - 1, -(2**63), 1, -8]
        found, expected = both(Encoders([Vocabulary("x", "x", pa.array(values))]), {"x": cells}, {"x": pa.int64()})
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "columns",
    [
        [Vocabulary("a", "x", pa.array(["1"])), Quantile("b", "x", (1.0,))],
        [Vocabulary("a", "x", pa.array(["1"])), Vocabulary("b", "x", pa.array([1]))],
        [Vocabulary("a", "x", pa.array([1]), Multi("|", 2))],
        [HashBuckets("a", "x", 5, Multi(None, 2)), HashBuckets("b", "x", 5)],
    ],
)
def test_columns_that_are_read_as_two_types_are_left_to_arrow(columns: list[Any]) -> None:
    encoders = Encoders(columns)
    encoders.keep_dictionaries()
    assert encoders.few is None and not FewRows(columns, []).usable


def test_columns_read_twice_in_one_type_are_not() -> None:
    columns: list[Any] = [
        Vocabulary("a", "x", pa.array([1])),
        LogRound("b", "x", 1.0, (0, 1)),
        HashBuckets("c", "x", 9),
    ]
    found, expected = both(Encoders(columns), {"x": [1, None, 7]}, {"x": pa.int64()})
    np.testing.assert_array_equal(found, expected)
