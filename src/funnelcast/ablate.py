"""An ablation: the complete model against the variants of its class, each of which lacks or changes one part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from funnelcast.compare import check_options, compare
from funnelcast.config import Component, Experiment
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError
from funnelcast.registry import MODELS, TREES, registry_of
from funnelcast.schema import Schema

__all__ = ["ablate", "variants_of"]


def variants_of(experiment: Experiment, schema: Schema) -> dict[str, tuple[Experiment, list[str]]]:
    """Make one experiment a variant: the same training, the same options as far as they mean something there.

    Args:
        experiment: of the complete model.
        schema: the fields and the funnel of the data.

    Returns:
        Variant -> its experiment, and the options of the complete model that it has no use for.

    Raises:
        ConfigError: the model has no variants or is one itself, the experiment names losses, or is named like a
            variant.
    """
    model, registry = experiment.model.name, registry_of(experiment.model.name)
    variants = getattr(registry.get(model), "variants", {})
    if not variants:
        having = sorted(
            {known.family(name) for known in (MODELS, TREES) for name in known.names() if known.preset(name)}
        )
        raise ConfigError(f"model '{model}' has no variants to compare it with; models that have: {', '.join(having)}")
    if model in variants:
        raise ConfigError(f"an ablation should start from the model '{registry.family(model)}', received '{model}'")
    if experiment.losses:
        raise ConfigError(
            f"{experiment.name}: an ablation should leave the losses to the model, since variants differ in them, "
            f"received [[losses]] {', '.join(loss.name for loss in experiment.losses)}"
        )
    if experiment.name in variants:
        raise ConfigError(
            f"the experiment of the complete model should not be named like a variant, '{experiment.name}'"
        )
    check_options(experiment, schema)
    return {name: _variant(experiment, name, preset, schema) for name, preset in variants.items()}


def _variant(experiment: Experiment, name: str, preset: dict[str, Any], schema: Schema) -> tuple[Experiment, list[str]]:
    """Make the experiment of one variant."""

    def of(options: dict[str, Any]) -> Experiment:
        return experiment.model_copy(update={"name": name, "model": Component(name=name, options=options)})

    kept: dict[str, Any] = {}
    dropped = []
    for option, value in experiment.model.options.items():
        if option in preset:
            continue  # what makes it this variant
        try:
            check_options(of(kept | {option: value}), schema)
        except ConfigError:
            dropped.append(option)
        else:
            kept[option] = value
    return of(kept), dropped


def ablate(
    experiment: Experiment,
    data_folder: Path,
    out: Path,
    *,
    seeds: int = 3,
    jobs: int = 1,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare a model with all variants of its class; gains are relative to the complete model.

    Args:
        experiment: of the complete model.
        data_folder: the prepared folder all of them train on.
        out: gets what `compare` writes.
        seeds: number of seeds, >= 1.
        jobs: trainings at the same time, each with its share of the cores.
        announce: called with one line for every run that ends, and for every option that a variant has no use for.

    Returns:
        The leaderboard.

    Raises:
        ConfigError: the model has no variants, the experiment is wrong, or a number is out of range.

    Source: APEM paper, section 4.3 and table 4.
    """
    variants = variants_of(experiment, PreparedData(data_folder).schema)
    for name, (_, dropped) in variants.items():
        if dropped:
            announce(f"{name} is trained without {', '.join(dropped)}, which means nothing there")
    plans = [experiment, *(plan for plan, _ in variants.values())]
    return compare(plans, data_folder, out, seeds=seeds, jobs=jobs, baseline=experiment.name, announce=announce)
