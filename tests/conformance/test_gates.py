"""What every model with gates tells of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.layers import FunnelModel
from funnelcast.registry import MODELS
from funnelcast.schema import Schema

MakeSchema = Callable[..., Schema]
MakeBatch = Callable[..., Batch]
GATED = [name for name in MODELS.names() if MODELS.get(name).gate_layers is not FunnelModel.gate_layers]
PLAIN = [name for name in MODELS.names() if name not in GATED and not hasattr(MODELS.get(name), "shape")]
every_gated_model = pytest.mark.parametrize("name", GATED)


def build(name: str, schema: Schema) -> FunnelModel:
    model: FunnelModel = MODELS.create(name, schema, options={})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # rows differ visibly
    return model.eval()


def test_the_models_with_gates_are_known() -> None:
    assert {MODELS.family(name) for name in GATED} == {"apem", "apem_dense", "dselect_k", "mmoe", "ple"}


@every_gated_model
def test_gates_are_between_0_and_1_and_shares_sum_to_1(
    name: str, make_schema: MakeSchema, make_batch: MakeBatch
) -> None:
    schema = make_schema(3)
    layers = build(name, schema).gate_layers(make_batch(schema, 7).ids)
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        assert layer.values.shape[0] == 7
        assert layer.values.min().item() >= 0.0 and layer.values.max().item() <= 1.0
        if layer.kind == "share":
            torch.testing.assert_close(layer.values.sum(dim=1), torch.ones(7))


@every_gated_model
def test_gates_of_a_row_do_not_depend_on_the_others(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(2)
    model, batch = build(name, schema), make_batch(schema, 7)
    together = model.gate_layers(batch.ids)
    for row in range(7):
        alone = model.gate_layers(batch.ids[row : row + 1])
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one.values[0], all_rows.values[row], rtol=1e-4, atol=1e-4)


@every_gated_model
def test_asking_for_gates_changes_no_prediction(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(2)
    model, batch = build(name, schema), make_batch(schema, 5)
    before, state = model(batch.ids).log_reach, {key: value.clone() for key, value in model.state_dict().items()}
    model.gate_layers(batch.ids)
    assert torch.equal(before, model(batch.ids).log_reach)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", PLAIN)
def test_a_model_without_gates_says_so(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(2)
    model = build(name, schema)
    assert model.gate_layers(make_batch(schema, 3).ids) == ()
    assert model.curve_point() == {}
