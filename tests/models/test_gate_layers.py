"""The gates that models tell are the ones that they predict with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from funnelcast.models.apem import Apem
from funnelcast.models.dselect_k import DselectK
from funnelcast.models.mmoe import Mmoe
from funnelcast.models.ple import Ple
from funnelcast.schema import Schema

Stir = Callable[[nn.Module], None]


@pytest.mark.parametrize("gate", ["query", "output", "query_output", "key_mask"])
@pytest.mark.parametrize("sees", ["former", "shared"])
def test_apem_tells_the_gates_of_its_forward(schema: Schema, ids: Tensor, stir: Stir, gate: Any, sees: Any) -> None:
    model = Apem(schema, width=6, inducing_points=5, layers=3, gamma=(3.0, 0.05), gate=gate, selector_input=sees)
    stir(model)
    used: list[Tensor] = []
    model.gates.register_forward_hook(lambda _module, _inputs, z: used.append(z))
    model(ids)
    expected = used.copy()
    told = model.gate_layers(ids)
    assert [layer.name for layer in told] == ["layer 1", "layer 2", "layer 3"]
    assert {layer.kind for layer in told} == {"opening"}
    for layer, z in zip(told, expected, strict=True):
        torch.testing.assert_close(layer.values, z)
    if gate == "key_mask":
        assert bool((told[0].values < 0.1).any()), "the test needs closed points"


@pytest.mark.parametrize("options", [{"gate": "none"}, {"representation": "self_attention"}])
def test_apem_without_gates_has_none_and_no_gamma(schema: Schema, ids: Tensor, options: dict[str, Any]) -> None:
    model = Apem(schema, **options)
    assert model.gate_layers(ids) == ()
    assert model.curve_point() == {}


def test_apem_tells_gamma_as_its_schedule_has_it(schema: Schema) -> None:
    model = Apem(schema, gamma=(4.0, 1.0), gamma_share=0.5)
    assert model.curve_point() == {"gamma": 4.0}
    model.set_progress(0.25)
    assert model.curve_point() == {"gamma": 2.0}
    model.set_progress(0.5)
    assert model.curve_point() == {"gamma": 1.0}


def test_mmoe_mixes_by_the_weights_it_tells(schema: Schema, ids: Tensor, stir: Stir) -> None:
    model = Mmoe(schema, width=3, experts=5, expert=(8,), tower=(7,))
    stir(model)
    layers = model.gate_layers(ids)
    assert [layer.name for layer in layers] == ["step step0", "step step1", "step step2"]
    outputs = model.experts(model.embedding(ids).flatten(1))  # [E, B, H]
    for tower, layer, logits in zip(model.towers, layers, model(ids).reach.logit().unbind(1), strict=True):
        torch.testing.assert_close(tower(torch.einsum("be,ebh->bh", layer.values, outputs)), logits)


@pytest.mark.parametrize(("gate", "experts"), [("row", 4), ("static", 5)])
def test_dselect_k_mixes_by_the_weights_it_tells(
    schema: Schema, ids: Tensor, stir: Stir, gate: Any, experts: int
) -> None:
    model = DselectK(schema, width=3, experts=experts, selectors=2, expert=(8,), tower=(7,), gate=gate)
    stir(model)
    layers = model.gate_layers(ids)
    assert all(layer.values.shape == (len(ids), experts) for layer in layers)
    outputs = model.experts(model.embedding(ids).flatten(1))
    for tower, layer, logits in zip(model.towers, layers, model(ids).reach.logit().unbind(1), strict=True):
        torch.testing.assert_close(tower(torch.einsum("be,ebh->bh", layer.values, outputs)), logits)


def test_ple_tells_every_gate_of_every_level(schema: Schema, ids: Tensor, stir: Stir) -> None:
    model = Ple(schema, width=3, levels=2, shared_experts=4, own_experts=(1, 2, 3), expert_hidden=(6,))
    stir(model)
    layers = model.gate_layers(ids)
    own = {"step step0": 1, "step step1": 2, "step step2": 3}
    expected = {f"level {level}, {name}": n + 4 for level in (1, 2) for name, n in own.items()}
    assert {layer.name: layer.values.shape[1] for layer in layers} == expected | {"level 1, shared": 1 + 2 + 3 + 4}
    weights, x = model.state_dict(), model.embedding(ids).flatten(1)
    (first,) = (layer.values for layer in layers if layer.name == "level 1, step step1")
    torch.testing.assert_close(first, (x @ weights["levels.0.gates.1.weight"].T).softmax(dim=1))
    # The second level's gates see what the first one made.
    stream = model.levels[0]([x] * 4)[2]
    (second,) = (layer.values for layer in layers if layer.name == "level 2, step step2")
    torch.testing.assert_close(second, (stream @ weights["levels.1.gates.2.weight"].T).softmax(dim=1))
