"""A small funnel whose sizes are all different, and ids for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from funnelcast.schema import Field, Schema, Step

RATES = ((0.3, 0.3), (0.06, 0.2), (0.03, 0.5))  # reach and transition of up to three steps


@pytest.fixture
def schema() -> Schema:
    """Four fields of unequal size, one of them multi-valued; three steps."""
    fields = (
        Field(name="item", size=7),
        Field(name="tags", size=5, max_length=3),
        Field(name="page", size=4),
        Field(name="hour", size=9),
    )
    steps = tuple(
        Step(name=f"step{i}", reach_rate=reach, transition_rate=transition)
        for i, (reach, transition) in enumerate(RATES)
    )
    return Schema(dataset="small", fields=fields, steps=steps)


@pytest.fixture
def ids(schema: Schema) -> Tensor:
    """Five rows with tags of length 1, 2 and 3, a hole and an empty cell."""
    rows = [[2, 3, 4, 1, 3, 8], [6, 2, 0, 0, 0, 0], [0, 4, 1, 0, 2, 5], [3, 2, 0, 3, 1, 7], [1, 0, 0, 0, 3, 2]]
    return torch.tensor(rows, dtype=torch.int32)


@pytest.fixture
def first_rates() -> Callable[[nn.Module], list[float]]:
    """Read the probability that each tower's last bias stands for."""

    def read(model: nn.Module) -> list[float]:
        biases = {name: value for name, value in model.state_dict().items() if name.endswith(".output.bias")}
        assert list(biases) == [f"towers.{i}.output.bias" for i in range(len(RATES))]
        return [torch.sigmoid(bias).item() for bias in biases.values()]

    return read


@pytest.fixture
def stir() -> Callable[[nn.Module], None]:
    """Give every parameter values of size 1, so that no term of a formula is too small to be seen."""

    def shake(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.empty_like(parameter).uniform_(-0.7, 0.7, generator=generator)
                parameter.add_(noise)

    return shake


@pytest.fixture(autouse=True)
def seed() -> None:
    """First weights do not depend on which tests ran before."""
    torch.manual_seed(0)
