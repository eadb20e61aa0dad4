"""Every registered model says what is worth a try, and each corner of that space builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from funnelcast.config import Component, Experiment
from funnelcast.registry import MODELS, TREES, registry_of
from funnelcast.schema import Schema
from funnelcast.space import combinations, grid_size, identity
from funnelcast.tuning.search import declared_space, plan_search

MakeSchema = Callable[..., Schema]
# What section 4.1 and table 2 of the APEM paper name, and the widths of its Single-Task.
PAPER: dict[str, dict[str, Any]] = {
    "apem": {"layers": 4, "heads": 2, "inducing_points": 64, "width": 18},
    "single_task": {"hidden": (256, 128, 64), "width": 18},
    **{name: {"width": 18} for name in ("shared_bottom", "mmoe", "ple", "aitm", "esmm", "escm2")},
}

# A variant searches the space of its model; models of several members or large paths take long to build.
BUILT = [
    pytest.param(name, marks=pytest.mark.slow)
    if name == "apem_dense" or name != registry_of(name).family(name)
    else name
    for name in [*MODELS.names(), *TREES.names()]
]


def schema_of(name: str, make_schema: MakeSchema) -> Schema:
    shape = getattr(registry_of(name).get(name), "shape", None)
    if shape is None:
        return make_schema(2)
    schema = make_schema(len(shape))
    steps = [
        step.model_copy(update={"parents": parents and tuple(p.replace(d, f"s{d}") for p in parents for d in p[-1])})
        for step, parents in zip(schema.steps, shape, strict=True)
    ]
    return schema.model_copy(update={"steps": tuple(steps)})


@pytest.mark.parametrize("name", BUILT)
def test_every_corner_builds(name: str, make_schema: MakeSchema) -> None:
    own = registry_of(name).get(name).search_space
    assert set(own) <= set(registry_of(name).options(name))
    schema = schema_of(name, make_schema)
    experiment = Experiment(name="e", model=Component(name=name))
    space = plan_search(experiment, schema, trials=1, grid=False).space
    assert grid_size(space) > 1  # every range names a grid
    of_model = {option.removeprefix("model."): p for option, p in space.items() if option.startswith("model.")}
    assert of_model, "a search should vary the model"
    for options in combinations(of_model, ends=True):
        registry_of(name).create(name, schema, options=options)
    if not registry_of(name).preset(name):
        missing = set(declared_space(name)) - set(space)
        assert not missing, f"{missing} does not fit the model's own defaults"


@pytest.mark.parametrize("name", [*MODELS.names(), *TREES.names()])
def test_the_space_holds_the_model_as_it_stands(name: str) -> None:
    for option, parameter in registry_of(name).get(name).search_space.items():
        default: Any = registry_of(name).options(name)[option].default
        assert name != registry_of(name).family(name) or parameter.including(default) == parameter


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_values_are_on_the_grid(name: str) -> None:
    space = declared_space(name)
    wanted = {f"model.{option}": value for option, value in PAPER[name].items()}
    for option, value in {**wanted, "train.learning_rate": 1e-3, "train.batch_size": 1024}.items():
        assert identity(value) in map(identity, space[option].grid), option
