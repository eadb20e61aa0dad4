"""MMoE against its formula in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.models.mmoe import Mmoe
from funnelcast.schema import Schema


def expected_reach(model: Mmoe, ids: Tensor, n_experts: int) -> np.ndarray:
    """Expert by expert and step by step."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    x = model.embedding(ids).detach().double().numpy().reshape(len(ids), -1)
    outputs = []
    for e in range(n_experts):
        h = x
        for layer in (0, 1):
            h = np.maximum(h @ w[f"experts.weights.{layer}"][e] + w[f"experts.biases.{layer}"][e, 0], 0)
        outputs.append(h)
    columns = []
    for i in range(model.schema.n_steps):
        scores = x @ w["gates.weight"][i * n_experts : (i + 1) * n_experts].T  # [B, E]
        gate = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        mixture = sum(gate[:, e, None] * outputs[e] for e in range(n_experts))
        t = np.maximum(mixture @ w[f"towers.{i}.body.0.weight"].T + w[f"towers.{i}.body.0.bias"], 0)
        columns.append(1 / (1 + np.exp(-(t @ w[f"towers.{i}.output.weight"][0] + w[f"towers.{i}.output.bias"]))))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("n_experts", [1, 2, 4, 5])  # fewer and more than the three steps
def test_formula(schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None], n_experts: int) -> None:
    model = Mmoe(schema, width=3, experts=n_experts, expert=(11, 8), tower=(7,))
    stir(model)
    model.double()
    expected = expected_reach(model, ids, n_experts)
    assert np.ptp(expected, axis=0).min() > 1e-3
    np.testing.assert_allclose(model(ids).reach.detach().numpy(), expected, rtol=1e-5)


def test_gates_of_a_step_sum_to_one_over_the_experts(schema: Schema, ids: Tensor) -> None:
    model = Mmoe(schema, width=3, experts=5, expert=(11, 8), tower=(7,))
    with torch.no_grad():  # equal experts: any mixture whose weights sum to 1 gives the same
        for parameter in (*model.experts.weights, *model.experts.biases):
            parameter.copy_(parameter[:1].expand_as(parameter))
    one = Mmoe(schema, width=3, experts=1, expert=(11, 8), tower=(7,))
    state = {k: (v[:1] if k.startswith("experts.") else v) for k, v in model.state_dict().items()}
    one.load_state_dict({**state, "gates.weight": one.state_dict()["gates.weight"]})
    torch.testing.assert_close(model(ids).log_reach, one(ids).log_reach)


def test_t14_experts_and_their_units_start_and_stay_different(schema: Schema, ids: Tensor) -> None:
    torch.manual_seed(0)
    model = Mmoe(schema, width=3, experts=3, expert=(6, 5), tower=(4,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        (-model(ids).log_reach.sum()).backward()
        optimizer.step()
    for weight in model.experts.weights:
        units = weight.detach().movedim(1, 2).flatten(0, 1)  # [E * outputs, inputs]
        distance = torch.cdist(units, units) + torch.eye(len(units)) * 9
        assert float(distance.min()) > 1e-2


def test_default_size(schema: Schema) -> None:
    F, d, E = 4, 18, 4
    experts = E * (F * d * 256 + 256 + 256 * 128 + 128)
    gates, towers = F * d * E * 3, 3 * (128 * 64 + 64 + 64 + 1)
    assert sum(p.numel() for p in Mmoe(schema).parameters()) == schema.n_ids * d + experts + gates + towers


def test_towers_start_at_the_reach_of_train(schema: Schema, first_rates: Callable[[nn.Module], list[float]]) -> None:
    np.testing.assert_allclose(first_rates(Mmoe(schema)), [0.3, 0.06, 0.03], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 0}, "option 'experts' should be a whole number >= 1, received 0"),
        ({"expert": ()}, "option 'expert' should name at least one layer, received none"),
        ({"expert": (4, 0)}, r"option 'expert' should be a list of whole numbers >= 1, received \(4, 0\)"),
        ({"tower": 64}, "option 'tower' should be a list of whole numbers >= 1, received 64"),
        ({"width": 0}, "option 'width'"),
    ],
)
def test_wrong_options_are_refused(schema: Schema, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mmoe(schema, **options)
