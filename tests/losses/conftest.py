"""A funnel of three steps and a batch with every kind of row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.schema import Field, Schema, Step


@pytest.fixture
def make_schema() -> Callable[[int], Schema]:
    """Return a function that makes a schema with so many steps."""

    def make(steps: int) -> Schema:
        rates = [Step(name=f"step{i}", reach_rate=0.5 ** (i + 1), transition_rate=0.5) for i in range(steps)]
        return Schema(dataset="toy", fields=(Field(name="item", size=3),), steps=tuple(rates))

    return make


@pytest.fixture
def batch() -> Batch:
    """Four rows: all steps, one step, no step, and the second label unobserved."""
    labels = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    observed = torch.ones(4, 3, dtype=torch.bool)
    observed[3, 1] = False
    return Batch(torch.zeros(4, 1, dtype=torch.int32), labels, observed, torch.tensor([1.0, 2.0, 1.0, 3.0]))


@pytest.fixture(autouse=True)
def seed() -> None:
    """First weights do not depend on which tests ran before."""
    torch.manual_seed(0)
