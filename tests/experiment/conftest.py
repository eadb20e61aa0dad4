"""Runs on small simulated worlds of any number of steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.datasets.synthetic import Synthetic
from funnelcast.run import Run
from funnelcast.train import fit

MakeRun = Callable[..., Run]
STEPS = ("click", "cart", "order", "pay", "keep")
RATES = (0.3, 0.5, 0.6, 0.7, 0.8)


def world(steps: int = 2, **options: Any) -> Synthetic:
    small: dict[str, Any] = {"rows": 3_000, "fields": 4, "ids": (30, 12, 5, 8), "numeric": 1, "multi": 1}
    return Synthetic(steps=STEPS[:steps], rates=RATES[:steps], **(small | options))


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Return a function that trains a model on a small world; equal arguments give one and the same run."""

    @cache
    def prepared(steps: int, seed: int) -> Path:
        work = tmp_path_factory.mktemp("world")
        prepare(world(steps, seed=seed).describe(None, work / "raw"), work / "data", threads=1)
        return work / "data"

    @cache
    def make(model: str = "logistic", steps: int = 2, seed: int = 0) -> Run:
        config = TrainConfig(epochs=3, batch_size=128, learning_rate=0.02, device="cpu")
        plan = Experiment(name=f"{model}-{steps}", model=Component(name=model), train=config)
        folder = tmp_path_factory.mktemp("run") / "run"
        return fit(folder, PreparedData(prepared(steps, seed)), plan)

    return make
