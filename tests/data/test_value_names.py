"""Ids of every kind of field back to words, and back again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from funnelcast.data.encode import ColumnEncoder, Encoders, HashBuckets, KeyStatistics, LogRound, Quantile, Vocabulary
from funnelcast.errors import ConfigError


def make_encoders() -> Encoders:
    key = Vocabulary("user", "user", pa.array([4, 9]))
    statistics = KeyStatistics(
        keys=(key,),
        codes=np.array([2, 3]),
        rows=np.array([1, 5]),
        hits=np.array([[0], [2]]),
        seen=np.array([[1], [5]]),
        rates=np.array([0.3]),
        smoothing=1.0,
        means=(Quantile("stat(user).click", "user", (0.1, 0.25)),),
        count_lows=(0, 3, 7),
    )
    columns: list[ColumnEncoder] = [
        Vocabulary("tab", "tab", pa.array(["home", "shop"])),
        Vocabulary("user", "user", pa.array([4, 9])),
        HashBuckets("item", "item", 5),
        LogRound("price", "price", 2.0, (-3, 0, 5)),
        Quantile("age", "age", (18.0, 30.0, 45.5)),
        Quantile("one", "one", (7.0,)),
    ]
    return Encoders(columns, [statistics])


def value_names(encoders: Encoders, field: str, ids: list[int]) -> list[str]:
    return list(map(encoders.value_names(field), ids))


def test_values_and_buckets_are_named() -> None:
    encoders = make_encoders()
    assert value_names(encoders, "tab", [3, 0, 1, 2, 3]) == ["shop", "(missing)", "(unknown)", "home", "shop"]
    assert value_names(encoders, "user", [2, 3]) == ["4", "9"]
    assert value_names(encoders, "item", [2, 6]) == ["bucket 0", "bucket 4"]
    assert value_names(encoders, "age", [2, 3, 4]) == ["below 30", "30 to 45.5", "from 45.5"]
    assert value_names(encoders, "one", [2]) == ["any number"]
    assert value_names(encoders, "stat(user).click", [2, 3]) == ["below 0.25", "from 0.25"]
    # The bucket number of n is round(4 log1p(n)), so 3 begins at n >= exp(2.5 / 4) - 1 = 0.87 and 7 at 4.08.
    assert value_names(encoders, "stat(user).count", [2, 3, 4]) == ["below 1", "1 to 5", "from 5"]


def test_log_round_ranges_hold_what_the_encoder_puts_there() -> None:
    encoder = make_encoders().columns[3]
    # exp(x) - 1 is 8.48774 at 2.25 and 14.6426 at 2.75; 0.284025 at 0.25; 2.49034 at 1.25 and 4.7546 at 1.75.
    texts = value_names(make_encoders(), "price", [2, 3, 4])
    assert texts == ["-4.7546 to -2.49034", "-0.284025 to 0.284025", "8.48774 to 14.6426"]
    found = encoder.apply(pa.array([-4.7, -2.5, -0.28, 0.28, 8.49, 14.6, 8.4, 14.7])).to_pylist()
    assert found == [2, 2, 3, 3, 4, 4, 1, 1]


def test_count_ranges_hold_what_the_statistic_puts_there() -> None:
    (statistic,) = make_encoders().statistics
    _, ids = statistic.bucket(np.array([0, 1, 4, 5]), np.zeros((4, 1)))
    names = value_names(make_encoders(), "stat(user).count", ids.to_pylist())
    assert names == ["below 1", "1 to 5", "1 to 5", "from 5"]


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"'tap' should be a field of the data; did you mean 'tab'\? known: age, item"
    ):
        value_names(make_encoders(), "tap", [2])
