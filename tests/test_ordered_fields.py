"""Ordered fields as numbers, and which fields are left to embed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.errors import ConfigError
from funnelcast.ordered_fields import OrderedFields, split_fields
from funnelcast.schema import Field, Schema, Step

STEPS = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)


def make(*fields: Field) -> Schema:
    return Schema(dataset="toy", fields=fields, steps=STEPS)


def ordered(name: str, size: int) -> Field:
    return Field(name=name, size=size, ordered=True)


MIXED = make(Field(name="item", size=9), ordered("age", 7), Field(name="tags", size=5, max_length=2), ordered("n", 4))


def test_fields_are_split_with_their_columns() -> None:
    kept, columns, numbers = split_fields(MIXED)
    assert [field.name for field in kept.fields] == ["item", "tags"]
    assert (columns, numbers) == ((0, 2, 3), (1, 4))


def test_a_schema_of_ordered_fields_alone_keeps_something_to_embed() -> None:
    schema = make(ordered("age", 7), ordered("n", 4))
    assert split_fields(schema) == (schema, (0, 1), (0, 1))


def test_places_by_hand() -> None:
    """Five buckets (ids 2..6) lie at -1, -1/2, 0, 1/2, 1; two buckets at -1 and 1; null and unknown at 0."""
    ids = torch.tensor([[8, 2, 0, 0, 3], [0, 6, 1, 1, 2], [1, 4, 0, 0, 0], [2, 3, 0, 0, 1]])
    out = OrderedFields(MIXED)(ids)
    assert out.tolist() == [[-1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 0, 0], [-0.5, 0, 0, 0]]


def test_every_id_has_a_shift_of_its_own() -> None:
    layer = OrderedFields(MIXED)
    with torch.no_grad():
        layer.shifts.copy_(torch.arange(11.0))  # 7 ids of age, then 4 of n
    out = layer(torch.tensor([[8, 0, 0, 0, 3], [8, 6, 0, 0, 1]]))
    assert out[:, 2:].tolist() == [[0, 10], [6, 8]]
    out[:, 2:].sum().backward()
    assert layer.shifts.grad is not None
    assert layer.shifts.grad.nonzero().flatten().tolist() == [0, 6, 8, 10]


@pytest.mark.parametrize("size", [2, 3])
def test_a_field_without_two_buckets_says_nothing(size: int) -> None:
    ids = torch.arange(size)[:, None]
    assert OrderedFields(make(ordered("age", size)))(ids)[:, 0].tolist() == [0] * size


@given(st.integers(4, 60))
def test_places_rise_evenly_from_minus_one_to_one(size: int) -> None:
    places = OrderedFields(make(ordered("age", size)))(torch.arange(2, size)[:, None])[:, 0]
    torch.testing.assert_close(places, torch.linspace(-1, 1, size - 2))


def test_a_schema_without_an_ordered_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset 'toy' should have an ordered field, received none"):
        OrderedFields(make(Field(name="item", size=9)))


def test_a_multi_valued_field_has_no_order() -> None:
    with pytest.raises(ValueError, match="field 'tags' should be single-valued to be ordered, received max_length > 1"):
        Field(name="tags", size=5, max_length=2, ordered=True)
