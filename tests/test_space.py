"""Search spaces: what a parameter holds, what it refuses, and when two combinations are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.errors import ConfigError
from funnelcast.space import (
    Choice,
    IntegerRange,
    LogUniform,
    SearchSpace,
    Uniform,
    combinations,
    describe,
    grid_size,
    identity,
    read_parameter,
)

numbers = st.one_of(st.integers(-9, 9), st.floats(-9, 9))
values = st.recursive(st.one_of(numbers, st.booleans(), st.text(max_size=3)), lambda v: st.lists(v, max_size=3))


@given(st.dictionaries(st.text(max_size=3), values, max_size=4), st.randoms())
def test_identity_knows_no_order_and_survives_json(combination: dict[str, Any], random: Any) -> None:
    shuffled = list(combination.items())
    random.shuffle(shuffled)
    assert identity(dict(shuffled)) == identity(combination) == identity(json.loads(json.dumps(combination)))


def test_identity_keeps_apart_what_differs() -> None:
    assert identity(1) == identity(1.0) != identity(True)
    assert identity((1, 2)) == identity([1, 2.0]) != identity([2, 1])


@pytest.mark.parametrize(
    ("parameter", "value", "ends"),
    [
        (Choice(2, 4), 4.0, (2, 4)),
        (Choice(2, 4), 3, (3, 2, 4)),
        (Choice((64,), (64, 32)), [8], ((8,), (64,), (64, 32))),
        (Uniform(0.2, 0.5), 0.1, (0.1, 0.5)),
        (LogUniform(0.2, 0.5), 0.7, (0.2, 0.7)),
        (IntegerRange(2, 5), 3, (2, 5)),
        (IntegerRange(2, 5), 7, (2, 7)),
    ],
)
def test_including(parameter: Any, value: Any, ends: tuple[Any, ...]) -> None:
    assert parameter.including(value).ends == ends


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Uniform(0.0, 1.0), "x"),
        (Uniform(0.0, 1.0), float("nan")),
        (Uniform(0.0, 1.0), True),
        (LogUniform(0.1, 1.0), 0.0),
        (LogUniform(0.1, 1.0), None),
        (IntegerRange(1, 2), 1.0),
        (IntegerRange(1, 2), (1, 2)),
    ],
)
def test_what_a_range_cannot_hold(parameter: Any, value: Any) -> None:
    with pytest.raises(ConfigError):
        parameter.including(value)


@pytest.mark.parametrize(
    ("given_value", "message"),
    [
        ([], "at least one"),
        ([1, 1.0], "different values"),
        (3, "a list of values, or a table"),
        ({"kind": "unifrom", "low": 0, "high": 1}, "did you mean 'uniform'"),
        ({"kind": "uniform", "low": 0}, "keys kind, low, high, grid, received kind, low"),
        ({"kind": "uniform", "low": 0, "high": 1, "log": True}, "received kind, low, high, log"),
        ({"kind": "uniform", "low": 1, "high": 1}, "low < high"),
        ({"kind": "uniform", "low": 0, "high": 1, "grid": [0.5, 2]}, "from 0 to 1"),
        ({"kind": "uniform", "low": 0, "high": 1, "grid": 0.5}, "'grid' should be a list"),
        ({"kind": "log_uniform", "low": 0, "high": 1}, "above 0"),
        ({"kind": "integers", "low": 1.0, "high": 3}, "whole numbers"),
        ({"kind": "integers", "low": 1, "high": 3, "grid": [1]}, "keys kind, low, high, received"),
    ],
)
def test_mistakes_are_named(given_value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_parameter(given_value)


def test_combinations_cover_the_product_once() -> None:
    space: SearchSpace = {"a": Choice(1, 2, 3), "b": Uniform(0.0, 1.0, grid=(0.5,)), "c": IntegerRange(4, 5)}
    points = [*combinations(space)]
    assert len(points) == grid_size(space) == 6 == len({identity(point) for point in points})
    assert points[:2] == [{"a": 1, "b": 0.5, "c": 4}, {"a": 1, "b": 0.5, "c": 5}]
    assert {point["b"] for point in combinations(space, ends=True)} == {0.0, 1.0}
    with pytest.raises(ConfigError, match="a grid needs the values of x"):
        grid_size({**space, "x": LogUniform(1.0, 2.0)})


def test_what_is_described_reads_back() -> None:
    space: SearchSpace = {"a": IntegerRange(1, 3), "b": LogUniform(0.1, 1.0, grid=(0.5,)), "c": Uniform(-1.0, 1.0)}
    assert {name: read_parameter(table) for name, table in describe(space).items()} == space
    assert describe({"d": Choice((1, 2), "x")}) == {"d": {"kind": "choice", "values": [[1, 2], "x"]}}
