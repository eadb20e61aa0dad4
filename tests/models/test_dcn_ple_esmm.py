"""DCN-PLE-ESMM against its formula in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from funnelcast.dense_path import Cross
from funnelcast.errors import ConfigError
from funnelcast.models.dcn_ple_esmm import DcnPleEsmm
from funnelcast.schema import Schema

UNEQUAL: dict[str, Any] = {
    "width": 3,
    "shared_experts": 3,
    "own_experts": (2, 1, 4),
    "expert_hidden": (7, 5),
    "tower_hidden": (6,),
}


def expected_reach(model: DcnPleEsmm, ids: Tensor, crosses: int, rank: int) -> np.ndarray:
    """Row by row and expert by expert, one level."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    first = model.embedding(ids).detach().double().numpy().reshape(len(ids), -1)
    rows = []
    for x0 in first:
        x = x0
        for layer in range(crosses):
            name = f"crosses.{layer}"
            inner = w[f"{name}.inner.weight"] @ x if rank else x
            x = x0 * (w[f"{name}.outer.weight"] @ inner + w[f"{name}.outer.bias"]) + x

        def expert(stream: int, number: int, h: np.ndarray) -> np.ndarray:
            for layer in (0, 1):
                weight = w[f"levels.0.experts.{stream}.weights.{layer}"][number]
                h = np.maximum(h @ weight + w[f"levels.0.experts.{stream}.biases.{layer}"][number, 0], 0)
            return h

        reach, row = 1.0, []
        for step, own in enumerate((2, 1, 4)):
            chosen = [expert(step, e, x) for e in range(own)] + [expert(3, e, x) for e in range(3)]
            scores = w[f"levels.0.gates.{step}.weight"] @ x
            gate = np.exp(scores) / np.exp(scores).sum()
            h = sum(share * output for share, output in zip(gate, chosen, strict=True))
            h = np.maximum(w[f"towers.{step}.body.0.weight"] @ h + w[f"towers.{step}.body.0.bias"], 0)
            logit = (w[f"towers.{step}.output.weight"] @ h + w[f"towers.{step}.output.bias"])[0]
            reach *= 1 / (1 + np.exp(-logit))
            row.append(reach)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("crosses", "rank"), [(3, 0), (2, 4), (1, 1), (0, 0)])
def test_formula(schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None], crosses: int, rank: int) -> None:
    model = DcnPleEsmm(schema, **UNEQUAL, cross_layers=crosses, cross_rank=rank)
    stir(model)
    model.double()
    expected = expected_reach(model, ids, crosses, rank)
    assert np.ptp(expected, axis=0).min() > 1e-4
    np.testing.assert_allclose(model(ids).reach.detach().numpy(), expected, rtol=1e-5)


def test_a_full_rank_product_is_the_full_matrix(schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None]) -> None:
    full, product = Cross(4, 0), Cross(4, 4)
    stir(product)
    assert isinstance(product.inner, nn.Linear)
    with torch.no_grad():
        full.outer.weight.copy_(product.outer.weight @ product.inner.weight)
        full.outer.bias.copy_(product.outer.bias)
    first, x = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(full(first, x), product(first, x))


def test_reach_is_a_product_and_starts_at_the_transitions_of_train(
    schema: Schema, ids: Tensor, first_rates: Callable[[nn.Module], list[float]]
) -> None:
    model = DcnPleEsmm(schema)
    np.testing.assert_allclose(first_rates(model), [0.3, 0.2, 0.5], rtol=1e-5)
    assert bool((model(ids).log_reach.diff(dim=1) < 0).all())


def test_size_of_the_crosses(schema: Schema) -> None:
    def count(rank: int) -> int:
        return sum(p.numel() for p in DcnPleEsmm(schema, cross_rank=rank).crosses.parameters())

    width = 4 * 18
    assert count(0) == 3 * (width**2 + width)
    assert count(5) == 3 * (2 * 5 * width + width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_layers": -1}, "option 'cross_layers' should be a whole number >= 0, received -1"),
        ({"cross_rank": -2}, "option 'cross_rank' should be a whole number >= 0, received -2"),
        ({"levels": 0}, "option 'levels' should be a whole number >= 1, received 0"),
        ({"own_experts": (1, 2)}, "'own_experts' should be one whole number or one for each of the 3 steps"),
        ({"expert_hidden": ()}, "option 'expert_hidden' should name at least one layer, received none"),
    ],
)
def test_wrong_options_are_refused(schema: Schema, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DcnPleEsmm(schema, **options)
