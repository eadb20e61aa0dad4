"""APEM as one writes it down from the paper, the baseline of the speed tables, gives the same numbers and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from benchmarks.straightforward import Straightforward
from torch import nn

from funnelcast import apem_layers
from funnelcast.models.apem import Apem
from funnelcast.schema import Field, Schema, Step


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "folded"])
def test_same_numbers_and_gradients(
    monkeypatch: pytest.MonkeyPatch, stir: Callable[[nn.Module], None], compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(apem_layers, "attention_usable", lambda *_: False)
    torch.manual_seed(0)
    steps = tuple(Step(name=name, reach_rate=0.2, transition_rate=0.5) for name in "abc")
    fields = tuple(Field(name=f"f{size}", size=size) for size in (7, 50, 3, 11, 5))
    model = Apem(Schema(dataset="straightforward", fields=fields, steps=steps))
    stir(model)
    plain = Straightforward(model)
    ids = torch.stack([torch.randint(0, field.size, (9,)) for field in fields], dim=1)
    found: list[list[torch.Tensor]] = []
    for each in (model, plain):
        each.zero_grad()
        reach = each(ids).log_reach
        reach.sum().backward()
        tables = [model.embedding.table] if each is model else [table.weight for table in plain.tables]
        gradients = [parameter.grad for parameter in (*tables, *model.layers.parameters())]
        assert all(gradient is not None for gradient in gradients)
        found.append([reach.detach(), torch.cat(gradients[: len(tables)]), *gradients[len(tables) :]])
    assert found[0][0].std() > 1e-3
    for ours, written in zip(*found, strict=True):
        torch.testing.assert_close(ours, written, rtol=1e-4, atol=1e-5 * max(1.0, float(written.abs().max())))
