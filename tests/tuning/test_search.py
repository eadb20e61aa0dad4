"""What is searched for an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from funnelcast.config import Component, Experiment, OptimizerConfig, TuneConfig, load_experiment
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError
from funnelcast.schema import Schema
from funnelcast.space import Choice, IntegerRange, identity
from funnelcast.tuning.search import declared_space, plan_search, with_values


@pytest.fixture
def schema(prepared: Path) -> Schema:
    return PreparedData(prepared).schema


def experiment(model: str = "apem", space: dict[str, Any] | None = None, **options: Any) -> Experiment:
    tune = TuneConfig.model_validate(space or {})
    return Experiment(name="mine", model=Component(name=model, options=options), tune=tune)


def test_a_variant_keeps_what_makes_it_one_and_what_means_nothing_is_left_out(schema: Schema) -> None:
    assert "model.sigma" in declared_space("apem") and "model.sigma" not in declared_space("apem_without_dependence")
    search = plan_search(experiment("apem_without_asrg"), schema, trials=1, grid=False)
    assert search.left_out == ("model.inducing_points",)
    assert {"model.layers", "model.heads", "model.sigma"} < set(search.space)


def test_values_that_do_not_fit_the_experiment_are_left_out(schema: Schema) -> None:
    search = plan_search(experiment("apem", width=15, heads=3), schema, trials=1, grid=False)
    assert search.space["model.width"] == Choice(15, 18)  # 8 and 32 are no multiples of 3
    assert search.space["model.heads"] == Choice(3, 1)
    listed = plan_search(experiment("escm2", clip=[0.01]), schema, trials=1, grid=False)
    assert "model.clip" in listed.left_out  # a range cannot hold a list


def test_the_start_is_the_experiment_and_belongs_to_the_space(schema: Schema) -> None:
    search = plan_search(experiment("mmoe", experts=3, tower=[5]), schema, trials=1, grid=False)
    assert search.start["model.experts"] == 3 and search.space["model.experts"].ends == (3, 2, 4, 8)
    assert identity(with_values(search.experiment, search.start).model.options["tower"]) == identity([5])
    assert with_values(search.experiment, search.start).train == search.experiment.train


def test_tune_in_the_file_overrides_adds_removes_and_stands_alone(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "mine.toml").write_text(
        '[model]\nname = "mmoe"\n[tune]\n"model.experts" = [1, 2]\n"model.tower" = []\n"train.weight_decay" = [1e-6]\n'
    )
    plan = load_experiment(tmp_path / "mine.toml")
    search = plan_search(plan, schema, trials=1, grid=False)
    assert search.space["model.experts"] == Choice(4, 1, 2) and "model.tower" not in search.space
    assert search.space["train.weight_decay"] == Choice(0.0, 1e-6) and "model.expert" in search.space
    assert "tune" not in plan.model_dump()
    alone = experiment("mmoe", {"model.experts": {"kind": "integers", "low": 2, "high": 9}, "others": False})
    assert plan_search(alone, schema, trials=1, grid=False).space == {"model.experts": IntegerRange(2, 9)}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"model.expertz": [1]},
            r"unknown parameter 'model.expertz'; did you mean 'model.expert'\? known: .*train.batch",
        ),
        ({"train.epochs": [1, 2]}, "unknown parameter 'train.epochs'"),
        ({"experts": [1, 2]}, "unknown parameter 'experts'"),
        ({"model.experts": [0, 2]}, r"mine with model.experts=0: .*1, received 0"),
        ({"train.batch_size": [0]}, "mine with train.batch_size=0"),
        ({"model.head": {"kind": "uniform", "low": 0.1, "high": 0.2}}, "mine with model.head=0.1"),
        ({"optimizer.embedding_learning_rate": {"kind": "uniform", "low": 0.1, "high": 0.2}}, "cannot hold None"),
        ({"model.experts": [4], "others": False}, "nothing to search"),
        ({"others": False}, "nothing to search"),
    ],
)
def test_mistakes_are_named(schema: Schema, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_search(experiment("mmoe", space), schema, trials=1, grid=False)


def test_a_value_that_another_option_forbids_is_named(schema: Schema) -> None:
    plan = experiment("mmoe", {"train.weight_decay": [0.0, 1e-3]}).model_copy(
        update={"optimizer": OptimizerConfig(embedding="sparse_adam")}
    )
    with pytest.raises(ConfigError, match=r"train.weight_decay=0.001.*has none"):
        plan_search(plan, schema, trials=1, grid=False)


def test_a_grid_is_walked_from_the_start_and_its_size_is_checked(schema: Schema) -> None:
    space = {"model.experts": [1, 2, 3], "model.tower": [[], [4]], "others": False}
    search = plan_search(experiment("mmoe", space, experts=2, tower=[4]), schema, trials=6, grid=True)
    assert len(search.grid) == 6 == len({identity(point) for point in search.grid})
    assert identity(search.grid[0]) == identity({"model.experts": 2, "model.tower": [4]})
    off = plan_search(experiment("mmoe", space, experts=5), schema, trials=7, grid=True)
    assert len(off.grid) == 7 and off.grid[0]["model.experts"] == 5
    with pytest.raises(ConfigError, match=r"the grid has 7 points, .*\(model.experts 3 x model.tower 2\).*--trials 6"):
        plan_search(experiment("mmoe", space, experts=5), schema, trials=6, grid=True)
    with pytest.raises(ConfigError, match=r"the grid has 2,592 points"):
        plan_search(experiment("mmoe"), schema, trials=12, grid=True)
    ranged = {"train.learning_rate": {"kind": "log_uniform", "low": 1e-3, "high": 1e-2}, "others": False}
    with pytest.raises(ConfigError, match=r"mine: a grid needs the values of train.learning_rate"):
        plan_search(experiment("mmoe", ranged), schema, trials=12, grid=True)


def test_a_grid_refuses_values_that_do_not_go_together(schema: Schema) -> None:
    space = {"model.width": [6, 8], "model.heads": [1, 2, 3], "others": False}
    plan = experiment("mran", space, width=6, heads=1)
    with pytest.raises(ConfigError, match=r"mine with model.width=8, model.heads=3: .*multiple of heads=3"):
        plan_search(plan, schema, trials=9, grid=True)
