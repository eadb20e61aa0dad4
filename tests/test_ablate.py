"""What an ablation compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from funnelcast.ablate import ablate, variants_of
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError
from funnelcast.models.apem import Apem
from funnelcast.registry import MODELS, TREES, registry_of
from funnelcast.schema import Schema


@pytest.fixture
def schema(prepared: Path) -> Schema:
    return PreparedData(prepared).schema


def complete(model: str = "apem", name: str = "whole", **options: Any) -> Experiment:
    config = TrainConfig(epochs=1, batch_size=256, learning_rate=0.003, device="cpu")
    return Experiment(name=name, model=Component(name=model, options=options), train=config)


def test_every_variant_has_the_same_training_and_the_options_that_mean_something(schema: Schema) -> None:
    whole = complete(inducing_points=5, width=4, layers=2, tower_hidden=[3], sigma=0.5, selector_hidden=[2])
    found = variants_of(whole, schema)
    assert list(found) == list(Apem.variants)
    kept = {name: set(plan.model.options) for name, (plan, _) in found.items()}
    dropped = {name: without for name, (_, without) in found.items() if without}
    all_options = set(whole.model.options)
    assert dropped == {
        "apem_without_asrg": ["inducing_points", "selector_hidden"],
        "apem_open_gates": ["selector_hidden"],
    }
    assert kept["apem_key_mask"] == all_options
    assert kept["apem_without_dependence"] == all_options - {"sigma"}  # the variant is what has another one
    assert kept["apem_without_patterns"] == all_options - {"tower_hidden"}
    for name, (plan, _) in found.items():
        assert (plan.name, plan.model.name, plan.train) == (name, name, whole.train)


def test_gains_refer_to_the_complete_model(prepared: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    whole = complete(inducing_points=5, width=4, layers=1)
    board = ablate(whole, prepared, tmp_path / "out", seeds=1, announce=lines.append)
    assert board["baseline"] == "whole"
    assert [row["experiment"] for row in board["rows"]] == ["whole", *Apem.variants]
    base, first = (row["steps"][0]["reach"] for row in board["rows"][:2])
    assert first["auc_gain"] == pytest.approx((first["auc"]["mean"] / base["auc"]["mean"] - 1) * 100)
    assert lines[0] == "apem_without_asrg is trained without inducing_points, which means nothing there"


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (
            complete("mmoe"),
            r"model 'mmoe' has no variants .*; models that have: apem, apem_dense, dr_jl, escm2, lightgbm, multi_ipw, ",
        ),
        (complete("apem_open_gates"), "should start from the model 'apem', received 'apem_open_gates'"),
        (complete(name="apem_key_mask"), "should not be named like a variant, 'apem_key_mask'"),
        (complete(layres=2), "no option 'layres'"),
        (
            complete().model_copy(update={"losses": (Component(name="reach_bce"),)}),
            "leave the losses to the model",
        ),
    ],
)
def test_mistakes_are_named(schema: Schema, experiment: Experiment, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variants_of(experiment, schema)


def test_all_models_with_variants_can_be_ablated(schema: Schema) -> None:
    families = {known.family(name) for known in (MODELS, TREES) for name in known.names() if known.preset(name)}
    assert {"apem", "lightgbm"} < families
    for family in families:
        whole = complete(family)
        if registry_of(family) is TREES:  # which refuse what the loop alone knows
            whole = whole.model_copy(update={"train": TrainConfig()})
        assert list(variants_of(whole, schema)) == list(registry_of(family).get(family).variants)
