"""Options of the wrong type or range, as a command line gives them, are refused in one line."""

from __future__ import annotations

import pytest

from funnelcast.errors import ConfigError
from funnelcast.registry import DATASETS


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("synthetic", "rows", "abc", "option 'rows' should be int, received 'abc'"),
        ("synthetic", "rates", 0.2, "option 'rates' should be tuple[float, ...], received 0.2"),
        ("kuairand", "statistics", "tab", "option 'statistics' should be tuple[str, ...], received 'tab'"),
        ("kuairand", "min_count", 0, "'min_count': Input should be greater than or equal to 1; received 0"),
        ("retrosheet", "buckets", 1, "'buckets': Input should be greater than or equal to 2; received 1"),
        ("ali_ccp", "valid_by", "x", "received 'x'; known: common, sample"),
        ("ga4", "minimum", 3, "dataset 'ga4' has no option 'minimum'"),
    ],
)
def test_wrong_options(name: str, key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DATASETS.create(name, options={key: value})
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_become_tuples() -> None:
    made = DATASETS.create("synthetic", options={"steps": ["a", "b"], "rates": [0.5, 0.25], "ids": [3]})
    assert (made.steps, made.rates) == (("a", "b"), (0.5, 0.25))
