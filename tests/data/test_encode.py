"""Encoders: ids by hand, null and unknown, types at prediction, JSON, and laws that hold for any input."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelcast.data.cells import canonical
from funnelcast.data.encode import Encoders, HashBuckets, KeyStatistics, LogRound, Multi, Quantile, Vocabulary
from funnelcast.errors import ArtifactError, DataError
from funnelcast.schema import field_column


def ids(encoder: Any, values: Any) -> list[Any]:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    result: list[Any] = encoder.apply(array).to_pylist()
    return result


def test_vocabulary_by_hand() -> None:
    encoder = Vocabulary.fit("n", "n", pa.array([30, 10, 20]))
    assert ids(encoder, [10, 20, 30, 40, None]) == [3, 4, 2, 1, 0]
    assert encoder.field.size == 5 and not encoder.field.ordered


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([30.0, math.nan, 10.0]), [2, 0, 3]),
        (pa.array(["30", None, "10"]), [2, 0, 3]),
        (pa.array(["30", "x", "30"]).dictionary_encode(), None),
        (pa.array([30, 10], pa.uint8()), [2, 3]),
        (pa.array([None, None]), [0, 0]),
        (pa.array([1.5]), None),
        (pa.array([[30]]), None),
        (pa.array([2**63], pa.uint64()), None),
    ],
)
def test_a_number_vocabulary_casts_or_says_why_not(values: pa.Array, expected: list[int] | None) -> None:
    encoder = Vocabulary.fit("n", "number", pa.array([30, 10]))
    if expected is None:
        with pytest.raises(DataError, match=r"column 'number' should hold whole numbers, received type "):
            ids(encoder, values)
    else:
        assert ids(encoder, values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([7, 8]), [2, 1]),
        (pa.array([7.0, None]), [2, 0]),
        (pa.array([True, False]), [3, 1]),
        (pa.array([datetime.date(2022, 5, 4)]), [4]),
        (pa.array(["7", "true"], pa.large_string()), [2, 3]),
        (pa.array(["7", None]).dictionary_encode(), [2, 0]),
    ],
)
def test_a_text_vocabulary_reads_other_types_as_text(values: pa.Array, expected: list[int]) -> None:
    encoder = Vocabulary.fit("n", "n", pa.array(["7", "true", "2022-05-04"]))
    assert ids(encoder, values) == expected


def test_an_empty_vocabulary_knows_null_and_unknown() -> None:
    encoder = Vocabulary.fit("n", "n", pa.array([], pa.string()))
    assert ids(encoder, ["a", None]) == [1, 0]
    assert ids(encoder, [1, None]) == [1, 0]
    assert encoder.field.size == 2


def test_whole_numbers_beyond_float32_stay_apart() -> None:
    encoder = Vocabulary.fit("n", "n", pa.array([2**24, 2**24 + 1, 2**53 + 1, 2**53 + 2]))
    assert ids(encoder, [2**24 + 1, 2**24, 2**53 + 2, 2**53 + 1]) == [3, 2, 5, 4]


def test_text_cells_are_split_stripped_and_cut() -> None:
    encoder = Vocabulary.fit("t", "t", pa.array(["a", "b", "c"]), Multi("|", 2))
    cells = [" a |b", "", None, "||", "b|\t|zz|c", "a"]
    assert ids(encoder, cells) == [[2, 3], [0], [0], [0], [3, 1], [2]]
    assert encoder.field.max_length == 2
    assert ids(encoder, pa.array(cells).slice(3, 2)) == [[0], [3, 1]]


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64())])
def test_list_cells(kind: pa.DataType) -> None:
    encoder = Vocabulary.fit("t", "t", pa.array([5, 6]), Multi(None, 3))
    cells = pa.array([[9], [6, None, 5, 7, 5], None, [], [None]], kind)
    assert ids(encoder, cells) == [[1], [3, 2, 1], [0], [0], [0]]
    assert ids(encoder, cells.slice(1, 2)) == [[3, 2, 1], [0]]


def test_list_and_text_cells_are_not_mixed_up() -> None:
    with pytest.raises(DataError, match="column 't' should hold lists, received type string"):
        ids(Vocabulary.fit("t", "t", pa.array([5]), Multi(None, 3)), ["5"])
    with pytest.raises(DataError, match=r"column 't' should hold text separated by ',', received type list"):
        ids(Vocabulary.fit("t", "t", pa.array([5]), Multi(",", 3)), [[5]])
    assert ids(Vocabulary.fit("t", "t", pa.array([5]), Multi(None, 3)), [None]) == [[0]]


def test_hash_of_a_number_is_the_hash_of_its_text() -> None:
    encoder = HashBuckets("h", "h", 1000)
    assert ids(encoder, [12, 13, None]) == ids(encoder, ["12", "13", None]) == ids(encoder, [12.0, 13.0, None])
    assert ids(encoder, ["7", "x"]) == [319, ids(encoder, ["x"])[0]]  # 319 is pinned: prepared data depend on it
    assert ids(HashBuckets("h", "h", 1000, Multi(",", 2)), ["7,12,1", None]) == [[319, *ids(encoder, [12])], [0]]


def test_log_round_by_hand() -> None:
    x = [0.0, -0.4, 1.0, -1.0, math.e**2 - 1, 1e9, None, math.nan, math.inf]
    # log1p * 2: 0, 0.67, 1.39, 1.39, 4, 41.4
    numbers = LogRound.bucket_numbers(np.array([v for v in x[:6] if v is not None]), 2.0)
    assert numbers.tolist() == [0, -1, 1, -1, 4, 41]
    assert ids(LogRound("x", "x", 2.0, (-1, 0, 1, 4)), x) == [3, 2, 4, 2, 5, 1, 0, 0, 1]
    assert ids(LogRound("x", "x", 2.0, ()), [1.0, None]) == [1, 0]
    with pytest.raises(DataError, match="column 'x' should hold numbers, received type string"):
        ids(LogRound("x", "x", 2.0, (0,)), ["cheap"])


def test_quantile_by_hand() -> None:
    encoder = Quantile("x", "x", (0.0, 2.5, 7.0))
    assert ids(encoder, [-9.0, 0.0, 2.4, 2.5, 7.0, math.inf, -math.inf, None, math.nan]) == [2, 2, 2, 3, 4, 4, 2, 0, 0]
    assert ids(encoder, [0, 3, 7]) == [2, 3, 4]
    assert ids(Quantile("x", "x", (5.0,)), [5, 6, 4, None]) == [2, 2, 2, 0]
    assert ids(Quantile("x", "x", ()), [1.0, None]) == [1, 0]


def test_categories_of_odd_types_are_refused() -> None:
    with pytest.raises(DataError, match=r"column 'c' should hold text, whole numbers, booleans or dates, received"):
        canonical(pa.array([{"a": 1}]), "c")


def statistics() -> KeyStatistics:
    return KeyStatistics(
        (Vocabulary("a", "a", pa.array(["x", "y"])),),
        np.array([0, 3]),
        np.array([2, 4]),
        np.array([[1], [3]]),
        np.array([[2], [4]]),
        np.array([0.1]),
        3.7,
        (Quantile("stat(a).click", "a", (0.1, 1 / 3)),),
        (0, 4, 6),
    )


SAMPLES: dict[str, tuple[Any, Any]] = {
    "vocabulary": (Vocabulary("t", "t", pa.array(['ä"\n', "b", ""])), ["b", 'ä"\n', "", None, "z"]),
    "numbers": (Vocabulary("n", "n", pa.array([2**62, -5])), [-5, 2**62, 0, None]),
    "multi": (Vocabulary("m", "m", pa.array(["a"]), Multi(";", 2)), ["a;b;a", None]),
    "hash": (HashBuckets("h", "h", 7, Multi(",", 3)), ["a,b", None]),
    "log": (LogRound("l", "l", 0.1 + 0.2, (-3, 0, 8)), [0.0, 1.0, None]),
    "quantile": (Quantile("q", "q", (1 / 3, 0.1 + 0.7, 1e300)), [1 / 3, 0.8, 2.0]),
}


def test_json_round_trip_keeps_ids_and_fields(tmp_path: Path) -> None:
    for name, (encoder, values) in SAMPLES.items():
        before = Encoders([encoder])
        before.save(tmp_path / name)
        after = Encoders.load(tmp_path / name)
        assert after.fields() == before.fields()
        table = pa.table({encoder.column: values})
        assert after.encode(table).equals(before.encode(table)), name
        after.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / name).read_bytes()


def test_json_round_trip_of_statistics(tmp_path: Path) -> None:
    before = Encoders([], [statistics()])
    before.save(tmp_path / "e.json")
    after = Encoders.load(tmp_path / "e.json")
    table = pa.table({"a": ["y", "x", None, "new"]})
    assert after.fields() == before.fields()
    assert all(field.ordered for field in after.fields())
    assert after.encode(table).to_pydict() == before.encode(table).to_pydict()
    # means: y (3 + .37) / 7.7 = .44; x and new .1; null (1 + .37) / 5.7 = .24; log1p(n) * 4: 6.4, 0, 4.4, 0
    assert after.encode(table).to_pydict() == {
        "field.stat(a).click": [3, 2, 2, 2],
        "field.stat(a).count": [4, 2, 3, 2],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 2, "encoders": []}', "format should be 1, received 2"),
        ('{"format": 1, "encoders": [{"kind": "vocab"}]}', "unknown encoder kind 'vocab'; did you mean 'vocabulary'"),
        ('{"format": 1, "encoders": [{"kind": "hash"}]}', r"key 'encoders\.0\.name': Field required, received"),
        ('{"format": 1, "encoders": [{}]}', "should be an encoders file, received: KeyError"),
        ("[1]", "should be an encoders file, received JSON without keys"),
        ("{", "damaged JSON"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        Encoders.load(tmp_path / "e.json")
    with pytest.raises(ArtifactError, match="does not exist"):
        Encoders.load(tmp_path / "none.json")


def test_a_missing_column_is_named() -> None:
    encoders = Encoders([Vocabulary("item", "item", pa.array(["a"]))])
    with pytest.raises(DataError, match=r"rows should have the column 'item'; did you mean 'itm'\?"):
        encoders.encode(pa.table({"itm": ["a"]}))


def test_two_columns_of_one_name_are_refused() -> None:
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["tab", "tab"])
    with pytest.raises(DataError, match="rows should have one column 'tab', received 2"):
        Encoders([Vocabulary("tab", "tab", pa.array(["a"]))]).encode(twice)


def test_chunked_and_empty_tables() -> None:
    encoders = Encoders([Vocabulary("item", "item", pa.array(["a", "b"]))])
    chunked = pa.table({"item": pa.chunked_array([["b"], [], ["a", None]])})
    assert encoders.encode(chunked).to_pydict() == {"field.item": [3, 2, 0]}
    empty = encoders.encode(pa.table({"item": pa.array([], pa.string())}))
    assert (empty.num_rows, empty.schema.field("field.item").type) == (0, pa.int32())


texts = st.lists(st.one_of(st.none(), st.text(max_size=4)), max_size=12)
wholes = st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=12)
floats = st.lists(st.one_of(st.none(), st.floats()), max_size=12)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["text", "whole"]), buckets=st.integers(2, 9))
def test_any_category_has_a_valid_id_that_survives_json(data: st.DataObject, kind: str, buckets: int) -> None:
    strategy: st.SearchStrategy[Any] = texts if kind == "text" else wholes
    arrow = pa.string() if kind == "text" else pa.int64()
    shown = list(dict.fromkeys(value for value in data.draw(strategy) if value is not None))
    values = pa.array(data.draw(strategy), arrow)
    for encoder in (Vocabulary.fit("x", "x", pa.array(shown, arrow)), HashBuckets("x", "x", buckets)):
        encoded = ids(encoder, values)
        assert all(0 <= id_ < encoder.field.size for id_ in encoded)
        for value, id_ in zip(values.to_pylist(), encoded, strict=True):
            assert (id_ == 0) == (value is None)
            if isinstance(encoder, Vocabulary) and value is not None:
                assert id_ == (shown.index(value) + 2 if value in shown else 1)
        assert ids(type(encoder).from_json(encoder.to_json()), values) == encoded


whole = st.one_of(st.integers(-9, 9), st.sampled_from([2**31, -(2**40), 2**63 - 1, -(2**63)]))


@settings(max_examples=100, deadline=None)
@given(values=st.lists(whole, unique=True, max_size=8), cells=st.lists(st.one_of(st.none(), whole), max_size=12))
def test_a_table_and_a_hash_table_give_the_same_ids(values: list[int], cells: list[int | None]) -> None:
    encoder = Vocabulary("n", "n", pa.array(values, pa.int64()))
    assert encoder.has_table is (len(values) > 0 and max(values) - min(values) < 1 << 16)
    expected = [0 if cell is None else values.index(cell) + 2 if cell in values else 1 for cell in cells]
    assert ids(encoder, pa.array(cells, pa.int64())) == expected


def test_a_sparse_vocabulary_is_hashed() -> None:
    near, far = np.arange(0, 80_000, 8), np.arange(0, 90_000, 9)
    assert Vocabulary("n", "n", pa.array(near)).has_table and not Vocabulary("n", "n", pa.array(far)).has_table
    assert not Vocabulary("t", "t", pa.array(["a"])).has_table


@settings(max_examples=40, deadline=None)
@given(values=floats, seen=st.sets(st.integers(-5, 5)), lows=st.sets(st.floats(allow_nan=False, allow_infinity=False)))
def test_any_number_has_a_valid_id_that_survives_json(
    values: list[float | None], seen: set[int], lows: set[float]
) -> None:
    array = pa.array(values, pa.float64())
    for encoder in (LogRound("x", "x", 0.7, tuple(sorted(seen))), Quantile("x", "x", tuple(sorted(lows)))):
        encoded = ids(encoder, array)
        assert all(0 <= id_ < encoder.field.size for id_ in encoded)
        assert [id_ == 0 for id_ in encoded] == [value is None or math.isnan(value) for value in values]
        assert ids(type(encoder).from_json(encoder.to_json()), array) == encoded
        known = sorted(
            (value, id_) for value, id_ in zip(values, encoded, strict=True) if value is not None and id_ >= 2
        )
        assert encoder.field.ordered and [id_ for _, id_ in known] == sorted(id_ for _, id_ in known)


@settings(max_examples=40, deadline=None)
@given(cells=st.lists(st.one_of(st.none(), st.lists(st.sampled_from(["a", " b", "", "c "]), max_size=5)), max_size=6))
def test_lists_and_separated_text_agree(cells: list[list[str] | None]) -> None:
    joined = pa.array([None if cell is None else ",".join(cell) for cell in cells], pa.string())
    lists = pa.array(cells, pa.list_(pa.string()))
    words = pa.array(["a", "b"])
    from_text = ids(Vocabulary("m", "m", words, Multi(",", 3)), joined)
    assert from_text == ids(Vocabulary("m", "m", words, Multi(None, 3)), lists)
    expected = [[{"a": 2, "b": 3}.get(v.strip(), 1) for v in cell or [] if v.strip()][:3] or [0] for cell in cells]
    assert from_text == expected


def test_names_of_encoded_columns() -> None:
    encoders = Encoders([HashBuckets("item", "raw", 3)], [statistics()])
    table = encoders.encode(pa.table({"raw": [1], "a": ["x"]}))
    assert table.column_names == [field_column(field.name) for field in encoders.fields()]
    assert encoders.raw_columns() == ["raw", "a"]


def test_a_flag_written_as_number_is_the_flag_of_training() -> None:
    paid = Vocabulary.fit("paid", "paid", pa.array([True, False]))
    wanted = paid.apply(pa.array([True, False, None])).to_pylist()
    assert wanted == [2, 3, 0]
    for again in (pa.array([1, 0, None]), pa.array([1.0, 0.0, None]), pa.array(["true", "false", None])):
        assert paid.apply(again).to_pylist() == wanted
    assert paid.apply(pa.array([2, -1])).to_pylist() == [1, 1]
