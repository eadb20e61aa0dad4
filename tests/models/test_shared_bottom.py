"""Shared-Bottom against its formula in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.models.shared_bottom import SharedBottom
from funnelcast.schema import Schema


def test_formula(schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None]) -> None:
    model = SharedBottom(schema, width=3, bottom=(11, 8), tower=(5,))
    stir(model)
    model.double()
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    h = model.embedding(ids).detach().numpy().reshape(len(ids), -1)
    for layer in (0, 2):
        h = np.maximum(h @ w[f"bottom.{layer}.weight"].T + w[f"bottom.{layer}.bias"], 0)
    expected = np.empty((len(ids), 3))
    for i in range(3):
        t = np.maximum(h @ w[f"towers.{i}.body.0.weight"].T + w[f"towers.{i}.body.0.bias"], 0)
        expected[:, i] = 1 / (1 + np.exp(-(t @ w[f"towers.{i}.output.weight"][0] + w[f"towers.{i}.output.bias"])))
    assert np.ptp(expected, axis=0).min() > 1e-3
    np.testing.assert_allclose(model(ids).reach.detach().numpy(), expected, rtol=1e-5)


def test_one_step_trains_the_bottom_but_no_other_tower(schema: Schema, ids: Tensor) -> None:
    model = SharedBottom(schema, width=3, bottom=(11, 8), tower=(5,))
    model(ids).log_reach[:, 0].sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}
    assert {name.split(".")[0] for name in touched} == {"embedding", "bottom", "towers"}
    assert {name[:9] for name in touched if name.startswith("towers")} == {"towers.0."}


def test_towers_start_at_the_reach_of_train(schema: Schema, first_rates: Callable[[nn.Module], list[float]]) -> None:
    np.testing.assert_allclose(first_rates(SharedBottom(schema)), [0.3, 0.06, 0.03], rtol=1e-5)


def test_default_size(schema: Schema) -> None:
    F, d = 4, 18
    bottom = F * d * 256 + 256 + 256 * 128 + 128
    towers = 3 * (128 * 64 + 64 + 64 + 1)
    assert sum(p.numel() for p in SharedBottom(schema).parameters()) == schema.n_ids * d + bottom + towers


@pytest.mark.parametrize("options", [{"bottom": 64}, {"tower": (0,)}, {"bottom": ("8",)}])
def test_wrong_widths_are_refused(schema: Schema, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}' should be a list of whole numbers >= 1"):
        SharedBottom(schema, **options)
