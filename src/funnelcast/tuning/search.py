"""What is searched for an experiment: the model's own space, the common one and `[tune]`, as far as they build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from funnelcast.compare import check_options
from funnelcast.config import Experiment, OptimizerConfig, TrainConfig, explain
from funnelcast.errors import ConfigError, choices
from funnelcast.registry import TREES, registry_of
from funnelcast.schema import Schema
from funnelcast.space import (
    Choice,
    LogUniform,
    Parameter,
    SearchSpace,
    Values,
    combinations,
    grid_size,
    identity,
)

__all__ = ["COMMON", "Search", "changes", "declared_space", "plan_search", "tunable", "with_values"]

# The paper's values are 1e-3, 1024 and 18 (section 4.1.4).
COMMON: SearchSpace = {
    "train.learning_rate": LogUniform(3e-4, 1e-2, grid=(3e-4, 1e-3, 3e-3, 1e-2)),
    "train.learning_rate_schedule": Choice("constant", "linear"),
    "train.batch_size": Choice(512, 1024, 2048),
    "model.width": Choice(8, 18, 32),
}
# The budget, and what changes no result.
_NOT_TUNED = {"epochs", "device", "memory_gb", "checkpoint_steps"}


@dataclass(frozen=True)
class Search:
    """What one experiment's study tries.

    Args:
        experiment: as it stands, with the epochs of the budget where it has epochs.
        space: parameter -> its values, the experiment's own among them.
        start: the experiment's own values, the first trial.
        grid: all trials of a grid search in order, `start` first; none for the other samplers.
        left_out: parameters that are declared for the model and cannot vary in this experiment.
    """

    experiment: Experiment
    space: SearchSpace
    start: Values
    grid: tuple[Values, ...] = ()
    left_out: tuple[str, ...] = ()


def tunable(experiment: Experiment) -> list[str]:
    """Name all parameters that a search may vary; trees, which no loop trains, have those of the model alone.

    Args:
        experiment: names the model.
    """
    registry, name = registry_of(experiment.model.name), experiment.model.name
    of_model = [f"model.{option}" for option in registry.options(name)]
    if registry is TREES:
        return of_model
    return [
        *of_model,
        *(f"train.{key}" for key in TrainConfig.model_fields if key not in _NOT_TUNED),
        *(f"optimizer.{key}" for key in OptimizerConfig.model_fields),
    ]


def declared_space(model: str) -> dict[str, Parameter]:
    """Join a model's own space with the common one; a variant's own options stay as they are.

    Trees share only `model` options with it.

    Args:
        model: a registered name.

    Raises:
        UnknownNameError: no model has this name.

    Example:
        >>> list(declared_space("single_task"))
        ['train.learning_rate', 'train.learning_rate_schedule', 'train.batch_size', 'model.width', 'model.hidden']
    """
    registry = registry_of(model)
    own = {f"model.{option}": parameter for option, parameter in registry.get(model).search_space.items()}
    fixed = {f"model.{option}" for option in registry.preset(model)}
    known = {f"model.{option}" for option in registry.options(model)}
    known |= {name for name in COMMON if name[:5] == "train" and registry is not TREES}
    return {name: parameter for name, parameter in {**COMMON, **own}.items() if name in known - fixed}


def with_values(experiment: Experiment, values: Values) -> Experiment:
    """Set parameters of an experiment.

    Args:
        experiment: what they are set in.
        values: parameter, such as `model.layers`, -> value.

    Raises:
        ConfigError: `[train]` or `[optimizer]` refuses a value; the model's own options are checked when it is built.
    """
    tree = experiment.model_dump()
    for name, value in values.items():
        section, _, key = name.partition(".")
        (tree["model"]["options"] if section == "model" else tree[section])[key] = value
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise explain(f"{experiment.name} with {_shown(values)}", error, Experiment) from error


def changes(start: Values, values: Values) -> str:
    """Say in words what is changed about an experiment.

    Args:
        start: its own values.
        values: the others, of the same parameters.

    Example:
        >>> changes({"model.layers": 4, "train.learning_rate": 1e-3}, {"model.layers": 4, "train.learning_rate": 2e-3})
        'train.learning_rate=0.002'
    """
    changed = {name: value for name, value in values.items() if identity(value) != identity(start[name])}
    return _shown(changed) or "as it stands"


def _own_value(experiment: Experiment, name: str) -> Any:
    section, _, key = name.partition(".")
    if section == "model":
        name = experiment.model.name
        return experiment.model.options.get(key, registry_of(name).options(name)[key].default)
    return getattr(getattr(experiment, section), key)


def _shown(values: Values) -> str:
    shown = {name: f"{v:.4g}" if isinstance(v, float) else json.dumps(v) for name, v in values.items()}
    return ", ".join(f"{name}={text}" for name, text in shown.items())


def _check(experiment: Experiment, values: Values, schema: Schema) -> None:
    """Refuse values with which the experiment does not build."""
    try:
        check_options(with_values(experiment, values), schema)
    except ConfigError as error:
        raise ConfigError(f"{experiment.name} with {_shown(values)}: {error}") from error


def _fits(experiment: Experiment, name: str, value: Any, schema: Schema) -> bool:
    try:
        _check(experiment, {name: value}, schema)
    except ConfigError:
        return False
    return True


def _fitting(experiment: Experiment, name: str, parameter: Parameter, schema: Schema) -> Parameter | None:
    """Return what is left of a declared parameter in this experiment, or none where that is its own value alone."""
    own = _own_value(experiment, name)
    try:
        parameter.including(own)
    except ConfigError:
        return None
    fitting = [value for value in parameter.ends if _fits(experiment, name, value, schema)]
    if isinstance(parameter, Choice):
        return Choice(*fitting) if {*map(identity, fitting)} - {identity(own)} else None
    return parameter if len(fitting) == len(parameter.ends) else None


def _resolve(experiment: Experiment, schema: Schema) -> Iterator[tuple[str, Parameter | None]]:
    """Yield every parameter of the search; none stands for one that the experiment cannot vary."""
    asked, known = experiment.tune.space, tunable(experiment)
    for name in asked:
        if name not in known:
            raise ConfigError(f"{experiment.name}: [tune] has the unknown parameter '{name}'; {choices(known, name)}")
    if experiment.tune.others:
        for name, declared in declared_space(experiment.model.name).items():
            if name not in asked:
                yield name, _fitting(experiment, name, declared, schema)
    for name, given in asked.items():
        if given is not None:
            for value in given.ends:
                _check(experiment, {name: value}, schema)
            yield name, given


def plan_search(experiment: Experiment, schema: Schema, *, trials: int, grid: bool) -> Search:
    """Work out what is searched for an experiment.

    Args:
        experiment: as it stands, with the epochs of the budget.
        schema: the fields and the funnel of the data.
        trials: the budget, >= 1.
        grid: whether the product of all listed values is walked through.

    Raises:
        ConfigError: `[tune]` names an unknown parameter, a value does not build, there is nothing to search, or the
            grid has more points than the budget.
    """
    check_options(experiment, schema)
    found = dict(_resolve(experiment, schema))
    kept = {name: parameter for name, parameter in found.items() if parameter is not None}
    start = {name: _own_value(experiment, name) for name in kept}
    try:
        space = {name: parameter.including(start[name]) for name, parameter in kept.items()}
    except ConfigError as error:
        raise ConfigError(f"{experiment.name}: [tune]: {error}, which is what the experiment has") from error
    space = {name: parameter for name, parameter in space.items() if len(parameter.ends) > 1}
    if not space:
        raise ConfigError(f"{experiment.name}: there is nothing to search; [tune] should list values of a parameter")
    start = {name: start[name] for name in space}
    left_out = tuple(name for name, parameter in found.items() if parameter is None)
    walk = _grid({name: kept[name] for name in space}, experiment, start, trials) if grid else ()
    for values in walk:
        _check(experiment, values, schema)
    return Search(experiment, space, start, walk, left_out)


def _grid(space: SearchSpace, experiment: Experiment, start: Values, trials: int) -> tuple[Values, ...]:
    """List the points of a grid, the experiment as it stands in front."""
    try:
        size = grid_size(space)
    except ConfigError as error:
        raise ConfigError(f"{experiment.name}: {error}") from error
    on_grid = all(identity(start[name]) in map(identity, parameter.grid) for name, parameter in space.items())
    size += not on_grid
    if size <= trials:
        return tuple({identity(values): values for values in [start, *combinations(space)]}.values())
    counts = " x ".join(f"{name} {len(parameter.grid)}" for name, parameter in space.items())
    raise ConfigError(
        f"{experiment.name}: the grid has {size:,} points, the experiment as it stands among them ({counts}), "
        f"received --trials {trials}; raise it, or list fewer values in [tune], with others = false for them alone"
    )
