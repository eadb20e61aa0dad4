"""PLE against its formula in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.models.ple import Ple
from funnelcast.registry import MODELS
from funnelcast.schema import Schema

Array = np.ndarray[Any, np.dtype[np.float64]]
UNEQUAL: dict[str, Any] = {
    "width": 3,
    "shared_experts": 4,
    "own_experts": (2, 1, 3),
    "expert_hidden": (11, 8),
    "tower_hidden": (7,),
}


def softmax(scores: Array) -> Array:
    shares: Array = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return shares


def mixed(gate: Array, outputs: list[Array]) -> Array:
    assert gate.shape[1] == len(outputs)
    total: Array = np.sum([gate[:, e, None] * output for e, output in enumerate(outputs)], axis=0)
    return total


def expected_reach(model: Ple, ids: Tensor, own: tuple[int, ...], shared: int, levels: int) -> Array:
    """Expert by expert, step by step, level by level."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    x = model.embedding(ids).detach().double().numpy().reshape(len(ids), -1)
    steps = [x] * len(own)
    common = x

    def expert(level: int, stream: int, e: int, h: Array) -> Array:
        name = f"levels.{level}.experts.{stream}"
        for layer in (0, 1):
            h = np.maximum(h @ w[f"{name}.weights.{layer}"][e] + w[f"{name}.biases.{layer}"][e, 0], 0)
        return h

    for level in range(levels):
        of_shared = [expert(level, len(own), e, common) for e in range(shared)]
        of_steps = [[expert(level, k, e, steps[k]) for e in range(n)] for k, n in enumerate(own)]
        gates = [softmax(steps[k] @ w[f"levels.{level}.gates.{k}.weight"].T) for k in range(len(own))]
        if level < levels - 1:
            everyone = [output for outputs in of_steps for output in outputs] + of_shared
            common = mixed(softmax(common @ w[f"levels.{level}.gates.{len(own)}.weight"].T), everyone)
        steps = [mixed(gates[k], of_steps[k] + of_shared) for k in range(len(own))]
    columns = []
    for k, h in enumerate(steps):
        t = np.maximum(h @ w[f"towers.{k}.body.0.weight"].T + w[f"towers.{k}.body.0.bias"], 0)
        columns.append(1 / (1 + np.exp(-(t @ w[f"towers.{k}.output.weight"][0] + w[f"towers.{k}.output.bias"]))))
    return np.stack(columns, axis=1)


def levels_of(model: Ple) -> list[Any]:
    return list(model.levels)


def moved(model: Ple, ids: Tensor, parameters: Iterable[Tensor]) -> list[bool]:
    """Say which steps of any row change when the parameters do."""
    with torch.no_grad():
        before = model(ids).log_reach
        for parameter in parameters:
            parameter.add_(torch.linspace(0.1, 0.9, parameter.numel()).view_as(parameter))
        return [bool(change > 1e-9) for change in (model(ids).log_reach - before).abs().amax(0)]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("own", "shared"), [((2, 1, 3), 4), ((3, 4, 2), 1), ((1, 1, 1), 2)])
def test_formula(
    schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None], levels: int, own: tuple[int, ...], shared: int
) -> None:
    model = Ple(schema, **{**UNEQUAL, "levels": levels, "own_experts": own, "shared_experts": shared})
    stir(model)
    model.double()
    expected = expected_reach(model, ids, own, shared, levels)
    assert np.ptp(expected, axis=0).min() > 1e-4
    np.testing.assert_allclose(model(ids).log_reach.detach().numpy(), np.log(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("own", "shared"), [((1, 1, 1), 2), ((3, 4, 2), 1), ((2, 1, 3), 4)])
def test_t5_fewer_and_more_shared_than_own_experts(
    schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None], own: tuple[int, ...], shared: int
) -> None:
    model = Ple(schema, **{**UNEQUAL, "own_experts": own, "shared_experts": shared})
    stir(model)
    model(ids).log_reach.sum().backward()
    for level in levels_of(model):
        assert [experts.weights[0].shape[0] for experts in level.experts] == [*own, shared]
        for experts in level.experts:
            alive = experts.weights[-1].grad.abs().sum(dim=(1, 2)) > 0
            assert alive.all(), "an expert that no gate chooses"


def test_t11_the_shared_gate_is_over_all_experts_and_absent_at_the_top(schema: Schema) -> None:
    model = Ple(schema, **UNEQUAL, levels=3)
    sizes = [[gate.out_features for gate in level.gates] for level in levels_of(model)]
    own_and_shared = [2 + 4, 1 + 4, 3 + 4]
    assert sizes == [[*own_and_shared, 2 + 1 + 3 + 4], [*own_and_shared, 2 + 1 + 3 + 4], own_and_shared]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_t11_own_experts_reach_other_steps_through_the_shared_gate_alone(
    schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None], step: int
) -> None:
    model = Ple(schema, **UNEQUAL, levels=2)
    stir(model)
    model.double()
    bottom, top = levels_of(model)
    assert moved(model, ids, top.experts[step].parameters()) == [k == step for k in range(3)]
    assert moved(model, ids, bottom.experts[step].parameters()) == [True] * 3
    assert moved(model, ids, top.experts[3].parameters()) == [True] * 3


def test_t13_an_expert_belongs_to_its_step_where_experts_and_steps_differ_in_number(
    schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None]
) -> None:
    model = Ple(schema, **UNEQUAL, levels=1)
    stir(model)
    model.double()
    (level,) = levels_of(model)
    for step, count in enumerate(UNEQUAL["own_experts"]):
        for e in range(count):
            one_expert = [bias[e] for bias in level.experts[step].biases]
            assert moved(model, ids, one_expert) == [k == step for k in range(3)], (step, e)
    for e in range(UNEQUAL["shared_experts"]):
        assert moved(model, ids, [bias[e] for bias in level.experts[3].biases]) == [True] * 3, e


def test_t14_experts_and_their_units_start_and_stay_different(schema: Schema, ids: Tensor) -> None:
    model = Ple(schema, **{**UNEQUAL, "expert_hidden": (6, 5)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        (-model(ids).log_reach.sum()).backward()
        optimizer.step()
    for level in levels_of(model):
        for layer in (0, 1):
            weights = [experts.weights[layer].detach().movedim(1, 2).flatten(0, 1) for experts in level.experts]
            units = torch.cat(weights)  # [experts * outputs, inputs]
            assert len(units) == (2 + 1 + 3 + 4) * (6, 5)[layer]
            distance = torch.cdist(units, units) + torch.eye(len(units)) * 9
            assert float(distance.min()) > 1e-2


def test_gates_of_every_level_sum_to_one(schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None]) -> None:
    model = Ple(schema, **UNEQUAL, levels=3)
    stir(model)
    streams = [model.embedding(ids).flatten(1)] * 4
    for level in levels_of(model):
        weights = level.gate_weights(streams)
        assert len(weights) == len(level.gates)
        for weight in weights:
            torch.testing.assert_close(weight.sum(1), torch.ones(len(ids)))
            assert float(weight.detach().std(1).max()) > 1e-3
        streams = level(streams)
    assert len(streams) == 3


def test_equal_experts_are_one_plain_stack(schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None]) -> None:
    model = Ple(schema, **UNEQUAL, levels=2)
    stir(model)
    h = model.embedding(ids).flatten(1)
    with torch.no_grad():
        for level in levels_of(model):
            first = level.experts[0]
            for experts in level.experts:
                for mine, theirs in zip(experts.parameters(), first.parameters(), strict=True):
                    mine.copy_(theirs[:1].expand_as(mine))
            h = first(h)[0]
    logits = torch.stack([tower(h) for tower in model.towers], dim=1)
    torch.testing.assert_close(model(ids).log_reach, torch.nn.functional.logsigmoid(logits))


def test_one_number_of_own_experts_stands_for_every_step(schema: Schema) -> None:
    one, each = Ple(schema, own_experts=3), MODELS.create("ple", schema, options={"own_experts": [3, 3, 3]})
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in each.state_dict().items()}


def test_a_funnel_of_one_step(schema: Schema, ids: Tensor) -> None:
    single = schema.model_copy(update={"steps": schema.steps[:1]})
    model = Ple(single, own_experts=(1,), shared_experts=1)
    assert model(ids).reach.shape == (5, 1)


def test_default_size(schema: Schema) -> None:
    F, d, S, H = 4, 18, 3, 128
    experts = (S * 2 + 2) * (F * d * H + H + H * H + H)
    gates = F * d * (S * 4 + S * 2 + 2) + H * S * 4
    towers = S * (H * 64 + 64 + 64 + 1)
    assert sum(p.numel() for p in Ple(schema).parameters()) == schema.n_ids * d + experts + gates + towers


def test_towers_start_at_the_reach_of_train(schema: Schema, first_rates: Callable[[nn.Module], list[float]]) -> None:
    np.testing.assert_allclose(first_rates(Ple(schema)), [0.3, 0.06, 0.03], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "option 'levels' should be a whole number >= 1, received 0"),
        ({"shared_experts": 0}, "option 'shared_experts' should be a whole number >= 1, received 0"),
        ({"own_experts": 0}, "option 'own_experts' should be a whole number >= 1, received 0"),
        ({"own_experts": (1, 0, 2)}, r"option 'own_experts' should be a list of whole .* >= 1, received \(1, 0, 2\)"),
        (
            {"own_experts": (1, 2)},
            r"'own_experts' should be one whole number or one for each of the 3 steps, received 2: \(1, 2\)",
        ),
        ({"expert_hidden": ()}, "option 'expert_hidden' should name at least one layer, received none"),
        ({"expert_hidden": (4, 0)}, r"option 'expert_hidden' should be a list of whole .* received \(4, 0\)"),
        ({"tower_hidden": 64}, "option 'tower_hidden' should be a list of whole numbers >= 1, received 64"),
        ({"width": 0}, "option 'width'"),
    ],
)
def test_wrong_options_are_refused(schema: Schema, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ple(schema, **options)
