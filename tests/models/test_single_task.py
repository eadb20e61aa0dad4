"""Single-Task against its formula in numpy."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.models.single_task import SingleTask
from funnelcast.registry import LOSSES, MODELS
from funnelcast.schema import Schema


def by_hand(model: SingleTask, ids: Tensor) -> np.ndarray:
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    columns = []
    for i, embedding in enumerate(model.embeddings):
        h = embedding(ids).detach().double().numpy().reshape(len(ids), -1)
        for layer in (0, 2):
            h = np.maximum(h @ w[f"towers.{i}.body.{layer}.weight"].T + w[f"towers.{i}.body.{layer}.bias"], 0)
        columns.append(h @ w[f"towers.{i}.output.weight"][0] + w[f"towers.{i}.output.bias"])
    result: np.ndarray = 1 / (1 + np.exp(-np.stack(columns, axis=1)))
    return result


@pytest.mark.parametrize("space", ["entire", "local"])
def test_formula(schema: Schema, ids: Tensor, stir: Callable[[nn.Module], None], space: str) -> None:
    model = MODELS.create("single_task", schema, options={"width": 3, "hidden": [7, 5], "space": space})
    stir(model)
    model.double()
    expected = by_hand(model, ids)
    assert np.ptp(expected, axis=0).min() > 1e-3
    prediction = model(ids)
    reach = expected if space == "entire" else expected.cumprod(axis=1)
    np.testing.assert_allclose(prediction.reach.detach().numpy(), reach, rtol=1e-5)
    if space == "local":
        np.testing.assert_allclose(prediction.transition.detach().numpy(), expected, rtol=1e-5)


def test_nothing_is_shared(schema: Schema, ids: Tensor) -> None:
    model = SingleTask(schema, width=3, hidden=(7, 5))
    model(ids).log_reach[:, 1].sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert touched
    assert all(name.startswith(("embeddings.1.", "towers.1.")) for name in touched)


@pytest.mark.parametrize(
    ("space", "loss", "rates"),
    [("entire", "reach_bce", (0.3, 0.06, 0.03)), ("local", "transition_bce", (0.3, 0.2, 0.5))],
)
def test_space_sets_loss_and_first_bias(
    schema: Schema, first_rates: Callable[[nn.Module], list[float]], space: str, loss: str, rates: tuple[float, ...]
) -> None:
    model = MODELS.create("single_task", schema, options={"space": space})
    assert [component.name for component in model.default_losses()] == [loss]
    LOSSES.create(loss, schema, options={})
    np.testing.assert_allclose(first_rates(model), rates, rtol=1e-5)


def test_default_layers_are_those_of_the_paper(schema: Schema) -> None:
    widths = [
        len(value)
        for name, value in SingleTask(schema).state_dict().items()
        if re.match(r"towers\.0\.body.*bias", name)
    ]
    assert widths == [256, 128, 64]


def test_unknown_space_is_refused(schema: Schema) -> None:
    with pytest.raises(ConfigError, match=r"option 'space' .* received 'locale'; did you mean 'local'.*entire, local"):
        SingleTask(schema, space="locale")  # type: ignore[arg-type]
