"""Rows cut by fields, frequency, time and activity: every segment by hand, from raw rows on."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.data.description import ColumnSplit, Description, Feature, Source, StepColumn
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError
from funnelcast.segments import Segmenter, _items, _quartiles

DAYS = ["2024-01-28", "2024-01-31", None, "2024-02-01", "2024-02-04", "2024-02-05", "2024-01-31", "2024-01-28"]
TEST: dict[str, list[Any]] = {
    "item": ["a", "b", "a", "c", None, "z", "b", "a"],
    "word": ["unknown", "null", None, "x", "y", "x", "x", "x"],
    "tags": ["p|q", "p", "", "q|p|p", "r", "q", "p|r", "q"],
    "bucket": [5, 5, 5, 5, 5, 5, 77, 5],
    "one": [1] * 8,
    "user": [1, 2, 9, 1, 3, 9, 1, 2],
    "when": [None if day is None else datetime.datetime.fromisoformat(f"{day}T23:59:59") for day in DAYS],
    "clock": [3, 1, 4, 1, 5, 9, 2, 6],
}
TRAIN: dict[str, list[Any]] = {
    "item": ["a", "a", "a", "a", "b", "b", "c", None],
    "word": ["unknown", "null", "other", "x", "x", "x", "x", "x"],
    "tags": ["p", "p", "p", "q", "q", "q|p", "p", "p"],
    "bucket": [5] * 8,
    "one": [1] * 8,
    "user": [1, 1, 1, 1, 1, 2, 2, 3],
    "when": [datetime.datetime(2024, 1, 1)] * 8,
    "clock": [0] * 8,
}


def shop(folder: Path, time: str | None = "when", user: str | None = "user", reserved: bool = False) -> PreparedData:
    """Eight rows of TRAIN, one of VALID, eight of TEST."""
    columns = {name: TRAIN[name] + TEST[name] + TRAIN[name][:1] for name in TRAIN}
    click, buy = [1, 1, 0, 0] * 4 + [1], [1, 0, 0, 0] * 4 + [0]
    part = ["train"] * 8 + ["test"] * 8 + ["valid"]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "click": click, "buy": buy, "part": part}), folder / "logs.parquet")
    description = Description(
        name="shop",
        source=Source(files=(str(folder / "logs.parquet"),)),
        steps=(StepColumn(name="click", column="click"), StepColumn(name="buy", column="buy")),
        features=(
            Feature(name="item", min_count=2),
            Feature(name="word"),
            Feature(name="tags", kind="multi", separator="|", max_length=3),
            Feature(name="bucket", encoder="hash", buckets=1000),
            *((Feature(name="user:train", column="one"),) if reserved else ()),
        ),
        split=ColumnSplit(kind="column", column="part"),
        user=user,
        time=time,
    )
    prepare(description, folder / "prepared", threads=1)
    return PreparedData(folder / "prepared")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return shop(tmp_path_factory.mktemp("shop"))


def cut(data: PreparedData, word: str, rows: list[int] | None = None, **options: int) -> dict[str, list[int]]:
    numbers = None if rows is None else np.array(rows)
    segmenter = Segmenter(
        data, Split.TEST, rows=numbers, min_rows=options.get("min_rows", 1), most=options.get("most", 50)
    )
    (column,) = segmenter.parse([word])
    return {part.value: part.rows.tolist() for part in segmenter.cut(column).segments}


def test_a_field_by_its_values(data: PreparedData) -> None:
    # c is on TRAIN once, below min_count, and so as unknown as z.
    found = {"null": [4], "unknown": [3, 5], "a": [0, 2, 7], "b": [1, 6]}
    assert cut(data, "item") == cut(data, "field:item") == found
    assert list(cut(data, "item")) == ["null", "unknown", "a", "b"]


def test_rare_values_are_pooled_but_null_and_unknown_are_not(data: PreparedData) -> None:
    found = {"null": [4], "unknown": [3, 5], "a": [0, 2, 7], "other": [1, 6]}
    assert cut(data, "item", min_rows=3) == cut(data, "item", most=1) == found


def test_values_called_like_our_words_are_quoted(data: PreparedData) -> None:
    assert cut(data, "word") == {"null": [2], "unknown": [4], "x": [3, 5, 6, 7], '"null"': [1], '"unknown"': [0]}


def test_a_row_with_several_values_lies_in_several_segments_but_once_in_each(data: PreparedData) -> None:
    assert cut(data, "tags") == {"null": [2], "unknown": [4, 6], "p": [0, 1, 3, 6], "q": [0, 3, 5, 7]}
    # p stands five times, but in four rows.
    assert cut(data, "tags", min_rows=5) == {"null": [2], "unknown": [4, 6], "other": [0, 1, 3, 5, 6, 7]}
    segmenter = Segmenter(data, Split.TEST)
    overlapping = [segmenter.cut(column).overlapping for column in segmenter.parse(["tags", "item", "time:day"])]
    assert overlapping == [True, False, False]


def test_some_rows_alone(data: PreparedData) -> None:
    # Places among the rows looked at, not row numbers.
    assert cut(data, "item", rows=[1, 4, 6]) == {"null": [1], "b": [0, 2]}
    assert cut(data, "tags", rows=[2, 3]) == {"null": [0], "p": [1], "q": [1]}
    assert cut(data, "time:month", rows=[2, 7]) == {"null": [0], "2024-01": [1]}
    assert cut(data, "user:split", rows=[0, 2]) == {"2 rows on the split": [1], "3 rows on the split": [0]}


def test_frequency_on_train(data: PreparedData) -> None:
    assert cut(data, "frequency:item") == {
        "null": [4],
        "unknown": [3, 5],
        "2 times on TRAIN": [1, 6],
        "4 times on TRAIN": [0, 2, 7],
    }
    assert cut(data, "frequency:bucket") == {"not on TRAIN": [6], "8 times on TRAIN": [0, 1, 2, 3, 4, 5, 7]}


def test_activity_of_users(data: PreparedData) -> None:
    assert cut(data, "user:split") == {
        "1 row on the split": [4],
        "2 rows on the split": [1, 2, 5, 7],
        "3 rows on the split": [0, 3, 6],
    }
    # Among TRAIN's 8 rows m(1) = 1/16, m(2) = 2/8 and m(5) = 11/16, so that three of the four bins are filled.
    assert cut(data, "user:train") == {
        "not on TRAIN": [2, 5],
        "1 row on TRAIN": [4],
        "2 rows on TRAIN": [1, 7],
        "5 rows on TRAIN": [0, 3, 6],
    }


def test_time_by_the_calendar(data: PreparedData) -> None:
    assert cut(data, "time:day") == {
        "null": [2],
        "2024-01-28": [0, 7],
        "2024-01-31": [1, 6],
        "2024-02-01": [3],
        "2024-02-04": [4],
        "2024-02-05": [5],
    }
    # 2024-01-28 and 2024-02-04 are Sundays.
    weeks = {"week of 2024-01-22": [0, 7], "week of 2024-01-29": [1, 3, 4, 6], "week of 2024-02-05": [5]}
    assert cut(data, "time:week") == {"null": [2]} | weeks
    assert cut(data, "time:month") == {"null": [2], "2024-01": [0, 1, 6, 7], "2024-02": [3, 4, 5]}
    bins = cut(data, "time:bins")
    assert list(bins)[:2] == ["null", "2024-01-28T23:59:59"]
    assert list(bins.values()) == [[2], [0, 7], [1, 6], [3], [4], [5]]


def test_plain_numbers_as_time_have_bins_and_no_days(tmp_path: Path) -> None:
    data = shop(tmp_path, time="clock")
    found = cut(data, "time:bins")
    assert found == {"1": [1, 3], "2": [6], "3": [0], "4": [2], "5": [4], "6": [7], "9": [5]}
    with pytest.raises(ConfigError, match="'time:week': the time is a plain number without days; use 'time:bins'"):
        Segmenter(data, Split.TEST).parse(["time:week"])


def test_a_field_named_like_a_reserved_word_is_asked_for_by_its_long_name(tmp_path: Path) -> None:
    data = shop(tmp_path, reserved=True)
    with pytest.raises(ConfigError, match=r"'user:train' is the name of a field as well as a .* 'field:user:train'"):
        Segmenter(data, Split.TEST).parse(["user:train"])
    assert cut(data, "field:user:train") == {"1": list(range(8))}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("itme", "there is no column 'itme'; did you mean 'item'\\? known: .*item"),
        ("time", "there is no column 'time'; .*known: bucket, frequency:FIELD, item, tags, time:bins, time:day"),
        ("hour:item", "there is no column 'hour:item'; .*known"),
        ("field:", "column 'field:': there is no ''; known: bucket, item"),
        ("frequency:words", "column 'frequency:words': there is no 'words'; did you mean 'word'"),
        ("time:hour", "column 'time:hour': there is no 'hour'; .*known: bins, day, month, week"),
        ("user:all", "column 'user:all': there is no 'all'; known: split, train"),
    ],
)
def test_unknown_columns(data: PreparedData, word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Segmenter(data, Split.TEST).parse(["item", word])


def test_what_the_data_lack(tmp_path: Path, make_prepared: Callable[..., Path], data: PreparedData) -> None:
    bare = shop(tmp_path, time=None, user=None)
    for word, message in (("time:day", "the data have no time"), ("user:split", "the data have no user")):
        with pytest.raises(ConfigError, match=message):
            Segmenter(bare, Split.TEST).parse([word])
    empty = PreparedData(make_prepared("empty", rows={"train": 10, "valid": 5, "test": 0}))
    with pytest.raises(DataError, match="the split 'test' should have rows, received none"):
        Segmenter(empty, Split.TEST)
    with pytest.raises(ConfigError, match="option 'min_rows' should be a whole number >= 1, received 0"):
        Segmenter(data, Split.TEST, min_rows=0)
    with pytest.raises(ConfigError, match="option 'most' should be a whole number >= 1, received 0"):
        Segmenter(data, Split.TEST, most=0)


def test_a_column_named_twice_is_cut_once(data: PreparedData) -> None:
    assert [column.word for column in Segmenter(data, Split.TEST).parse(["tags", "item", "tags"])] == ["tags", "item"]


def test_padding_and_empty_lists() -> None:
    row, ids = _items(pa.array([[3, 0, 2, 3], [], [0, 0]], pa.list_(pa.int32())))
    assert list(zip(row.tolist(), ids.tolist(), strict=True)) == [(0, 2), (0, 3), (1, 0), (2, 0)]


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60))
def test_quartiles_keep_equal_counts_together_and_the_order(counts: list[int]) -> None:
    array = np.array(counts)
    number, names = _quartiles(array)
    assert set(number.tolist()) == set(range(len(names))) and len(names) <= 4
    for one, other in zip(array, number, strict=True):
        assert (number[array == one] == other).all() and (number[array > one] >= other).all()
