"""The fused embedding, the MLP, the tower and the first biases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from funnelcast.config import Component
from funnelcast.errors import ConfigError
from funnelcast.layers import (
    MLP,
    FeatureEmbedding,
    FunnelModel,
    Tower,
    check_at_least,
    check_choice,
    column_offsets,
    log_odds,
    reach_log_odds,
    transition_log_odds,
)
from funnelcast.models.single_task import Space
from funnelcast.schema import Field, Schema, Step


@pytest.fixture(autouse=True)
def seed() -> None:
    """First weights do not depend on which tests ran before."""
    torch.manual_seed(0)


def make(*fields: tuple[int, int], rates: tuple[tuple[float, float], ...] = ((0.2, 0.2),)) -> Schema:
    return Schema(
        dataset="toy",
        fields=tuple(Field(name=f"f{i}", size=size, max_length=length) for i, (size, length) in enumerate(fields)),
        steps=tuple(Step(name=f"s{i}", reach_rate=r, transition_rate=c) for i, (r, c) in enumerate(rates)),
    )


def counted(schema: Schema, width: int = 2) -> FeatureEmbedding:
    """An embedding whose row n holds (n, -n)."""
    embedding = FeatureEmbedding(schema, width)
    rows = torch.arange(schema.n_ids, dtype=torch.float32)
    with torch.no_grad():
        embedding.table.copy_(torch.stack([rows, -rows], dim=1))
    return embedding


def test_single_valued_fields_read_their_own_part_of_the_table() -> None:
    embedding = counted(make((3, 1), (5, 1), (2, 1)))
    out = embedding(torch.tensor([[0, 0, 0], [2, 4, 1]]))
    assert out.tolist() == [[[0, 0], [3, -3], [8, -8]], [[2, -2], [7, -7], [9, -9]]]


def test_multi_valued_field_is_the_mean_of_its_valid_positions() -> None:
    # table: f0 rows 0-3, f1 rows 4-8, f2 rows 9-10, f3 rows 11-15
    embedding = counted(make((4, 1), (5, 3), (2, 1), (5, 2)))
    ids = torch.tensor(
        [
            [1, 2, 4, 3, 1, 1, 2],  # all positions valid
            [3, 2, 0, 4, 0, 4, 0],  # padding in the middle and at the end
            [0, 0, 0, 0, 0, 0, 0],  # empty: the null id of the first position counts
            [0, 0, 3, 0, 0, 0, 4],  # a null first position counts beside a value
        ]
    )
    first = [[1, 4 + 3, 10, 11 + 1.5], [3, 4 + 3, 9, 11 + 4], [0, 4, 9, 11], [0, 4 + 1.5, 9, 11 + 2]]
    out = embedding(ids)
    assert out.shape == (4, 4, 2)
    assert out[:, :, 0].tolist() == first
    assert torch.equal(out[:, :, 1], -out[:, :, 0])


def test_padding_gets_no_gradient() -> None:
    embedding = FeatureEmbedding(make((4, 1), (5, 3)), 2)
    embedding(torch.tensor([[1, 2, 0, 0]])).sum().backward()
    grad = embedding.table.grad
    assert grad is not None
    assert grad.abs().sum(1).nonzero().flatten().tolist() == [1, 4 + 2]


@pytest.mark.parametrize("fields", [((9, 2),), ((9, 2), (3, 1)), ((3, 1), (9, 2), (4, 3)), ((3, 1), (4, 1), (9, 2))])
def test_field_order_is_kept_with_multi_valued_fields_anywhere(fields: tuple[tuple[int, int], ...]) -> None:
    schema = make(*fields)
    embedding = counted(schema)
    ids = torch.cat([torch.full((1, length), 2) for _, length in fields], dim=1)
    starts = np.cumsum([0, *[size for size, _ in fields]])[:-1]
    assert embedding(ids)[0, :, 0].tolist() == (starts + 2).tolist()


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_embedding_equals_a_plain_loop(data: st.DataObject) -> None:
    fields = data.draw(st.lists(st.tuples(st.integers(2, 6), st.integers(1, 3)), min_size=1, max_size=4))
    schema = make(*fields)
    torch.manual_seed(0)
    embedding = FeatureEmbedding(schema, 3)
    row = [data.draw(st.integers(0, size - 1)) for size, length in fields for _ in range(length)]
    expected, start, column = [], 0, 0
    for size, length in fields:
        cell = row[column : column + length]
        kept = [cell[0]] + [value for value in cell[1:] if value != 0]
        expected.append(embedding.table[[start + value for value in kept]].mean(0))
        start, column = start + size, column + length
    torch.testing.assert_close(embedding(torch.tensor([row]))[0], torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_t4_neighbouring_ids_above_two_to_the_24_stay_apart(dtype: torch.dtype) -> None:
    embedding = FeatureEmbedding(make((2, 1), (2**24 + 4, 1)), 1)
    with torch.no_grad():
        embedding.table.zero_()
        embedding.table[2 + 2**24] = 5.0
        embedding.table[2 + 2**24 + 1] = 7.0
    ids = torch.tensor([[0, 2**24], [0, 2**24 + 1]], dtype=dtype)
    assert torch.tensor([2**24 + 1]).float().long().item() == 2**24  # what a float matrix would make of it
    assert embedding(ids)[:, 1, 0].tolist() == [5.0, 7.0]


def test_offsets_turn_to_int64_where_int32_would_overflow() -> None:
    small, large = make((2**30, 1), (2**30 - 1, 1)), make((2**31 - 1, 1), (9, 2))
    assert column_offsets(small).dtype is torch.int32
    offsets = column_offsets(large)
    assert offsets.dtype is torch.int64
    assert (torch.tensor([[0, 8, 8]], dtype=torch.int32) + offsets).tolist() == [[0, 2**31 + 7, 2**31 + 7]]


def test_table_starts_small_and_offsets_are_no_weights() -> None:
    torch.manual_seed(0)
    embedding = FeatureEmbedding(make((5000, 1), (3, 1)), 8)
    assert embedding.table.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(embedding.table.mean().item()) < 2e-4
    assert list(embedding.state_dict()) == ["table"]
    assert embedding.n_outputs == 16


def test_mlp_by_hand() -> None:
    mlp = MLP(2, (2, 1))
    with torch.no_grad():
        for name, value in (("0.weight", [[1.0, 2.0], [-1.0, 1.0]]), ("2.weight", [[2.0, -1.0]]), ("2.bias", [0.5])):
            mlp.get_parameter(name).copy_(torch.tensor(value))
    # (1, 3): relu(7), relu(2) -> 14 - 2 + 0.5; (4, 1): relu(6), relu(-3) -> 12.5; (-9, 0): 0, 9 -> relu(-8.5)
    assert mlp(torch.tensor([[1.0, 3.0], [4.0, 1.0], [-9.0, 0.0]])).flatten().tolist() == [12.5, 12.5, 0.0]
    assert mlp.n_outputs == 1


def test_mlp_without_layers_is_the_identity() -> None:
    x = torch.tensor([[-1.0, 2.0]])
    assert torch.equal(MLP(2, ())(x), x)
    assert MLP(2, ()).n_outputs == 2


def test_t14_units_of_a_layer_start_different() -> None:
    weight = MLP(5, (7, 6)).get_parameter("2.weight").detach()
    distance = torch.cdist(weight, weight) + torch.eye(6) * 9
    assert float(distance.min()) > 1e-2


def test_tower_keeps_leading_dimensions() -> None:
    tower = Tower(3, (4,), start=-1.5)
    assert tower(torch.zeros(5, 2, 3)).shape == (5, 2)
    assert tower(torch.zeros(5, 3)).tolist() == [-1.5] * 5


def test_first_biases_are_the_log_odds_of_train() -> None:
    schema = make((3, 1), rates=((0.2, 0.2), (0.05, 0.25), (0.05, 1.0)))
    assert reach_log_odds(schema) == pytest.approx([math.log(0.2 / 0.8), math.log(0.05 / 0.95), math.log(0.05 / 0.95)])
    assert transition_log_odds(schema)[:2] == pytest.approx([math.log(0.25), math.log(1 / 3)])
    assert transition_log_odds(schema)[2] == pytest.approx(math.log((1 - 1e-6) / 1e-6))  # finite at a rate of 1


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_log_odds_are_finite_and_odd(rate: float) -> None:
    assert math.isfinite(log_odds(rate))
    assert log_odds(rate) == pytest.approx(-log_odds(1 - rate), abs=1e-9)


def test_base_model_has_reach_losses_and_no_schedule() -> None:
    model = FunnelModel(make((3, 1)))
    assert model.default_losses() == (Component(name="reach_bce"),)
    model.set_progress(0.5)
    assert model.state_dict() == {}
    with pytest.raises(NotImplementedError, match=r"FunnelModel should define forward\(ids\)"):
        model(torch.zeros(1, 1))


def test_wrong_options_are_refused() -> None:
    for widths in ((4, -2), 64, (4, 2.5), "64"):
        with pytest.raises(ConfigError, match=r"option 'hidden' should be a list of whole numbers >= 1, received "):
            MLP(3, widths)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="option 'width' should be a whole number >= 1, received 0"):
        FeatureEmbedding(make((3, 1)), 0)
    with pytest.raises(ConfigError, match="option 'heads' should be a whole number >= 2, received '3'"):
        check_at_least(2, heads="3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"option 'space' .* received 'entre'; did you mean 'entire'"):
        check_choice("space", "entre", Space)


def test_embedding_trains_like_separate_tables() -> None:
    schema = make((4, 1), (6, 1))
    fused = FeatureEmbedding(schema, 3)
    tables = [nn.Embedding.from_pretrained(part.detach().clone(), freeze=False) for part in fused.table.split([4, 6])]
    ids = torch.tensor([[1, 5], [1, 0], [3, 5]])
    (fused(ids) ** 2).sum().backward()
    torch.stack([table(ids[:, i]) for i, table in enumerate(tables)], 1).square().sum().backward()
    assert fused.table.grad is not None
    separate = torch.cat([grad for table in tables if (grad := table.weight.grad) is not None])
    torch.testing.assert_close(fused.table.grad, separate)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_an_embedding_finds_its_columns_in_a_wider_batch(dtype: torch.dtype) -> None:
    """Fields of 3 ids and of 5 ids at two positions, in a batch whose columns 1 and 3 belong to others."""
    embedding = counted(make((3, 1), (5, 2)))
    alone = embedding(torch.tensor([[2, 4, 0], [1, 3, 1]], dtype=dtype))
    embedding.read_from((0, 2, 4))
    wider = torch.tensor([[2, 99, 4, 99, 0], [1, 99, 3, 99, 1]], dtype=dtype)
    assert torch.equal(embedding(wider), alone)
    assert embedding.rows(wider).tolist() == [[2, 7, 3], [1, 6, 4]]
    assert "columns" not in embedding.state_dict()
