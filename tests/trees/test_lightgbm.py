from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch

from funnelcast.config import Component, Experiment, OptimizerConfig, TrainConfig
from funnelcast.data.description import Feature
from funnelcast.data.encode import Encoders
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from funnelcast.evaluate import evaluate
from funnelcast.registry import MODELS, TREES, registry_of
from funnelcast.run import Run, build_model
from funnelcast.schema import Field, Schema, Step, StepValue
from funnelcast.train import fit
from funnelcast.trees._columns import Columns

MakeData = Callable[..., PreparedData]
QUICK = {"rounds": 12, "num_leaves": 5, "min_data_in_leaf": 7, "patience": 4}


def trees(**options: Any) -> Experiment:
    """A quick experiment."""
    return Experiment(name="trees", model=Component(name="lightgbm", options={**QUICK, **options}))


def ids_of(data: PreparedData, split: Split) -> torch.Tensor:
    return data.read(data.row_groups(split)).ids


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_predictions_are_those_of_the_boosters(make_data: MakeData, tmp_path: Path, steps: int) -> None:
    data = make_data(steps=steps)
    run = fit(tmp_path / "run", data, trees(indicators=3, largest_category=33), seed=1)
    ids = ids_of(data, Split.TEST)
    prediction = Run(run.folder).load_model()(ids)
    columns = Columns.of(data.schema, Encoders.load(data.folder / "encoders.json"), 33, 3)
    boosters = [lightgbm.Booster(model_file=str(run.folder / f"booster-{i}.txt")) for i in range(steps)]
    expected = np.stack([booster.predict(columns.matrix(ids.numpy())) for booster in boosters], axis=1)
    np.testing.assert_allclose(prediction.reach.numpy(), expected, rtol=2e-6)
    assert expected.std(axis=0).min() > 0.01  # rows do differ
    report = evaluate(run, data)
    assert report["parameters"] == sum(
        tree["num_leaves"] for booster in boosters for tree in booster.dump_model()["tree_info"]
    )
    assert report["model"] == "lightgbm" and report["steps"][0]["reach"]["auc"] > 0.55


def test_a_step_function_is_learned_exactly(make_data: MakeData, tmp_path: Path) -> None:
    rows = 640  # a part of 160 holds every price and turn equally often
    price, turn = np.arange(rows) % 8, np.arange(rows) // 8 % 4
    click = (turn < np.where(price < 3, 1, 3)).astype(np.int8)  # a quarter of the cheap ones, else three
    data = make_data(
        rows=rows,
        steps=1,
        columns={"price": price, "click": click, "part": np.repeat(["train", "valid", "test", "train"], rows // 4)},
        features=(Feature(name="price", kind="numeric", encoder="quantile", buckets=8),),
    )
    exact = trees(learning_rate=1.0, rounds=8, num_leaves=2, lambda_l2=0.0, feature_fraction=1.0)
    run = fit(tmp_path / "run", data, exact)
    reach = run.load_model()(torch.tensor([[2], [4], [5], [9]])).reach[:, 0]
    torch.testing.assert_close(reach, torch.tensor([0.25, 0.25, 0.75, 0.75]), rtol=0, atol=1e-5)


def test_the_local_variant_multiplies_transitions(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(steps=2)
    local = Experiment(name="local", model=Component(name="lightgbm_local", options=trees().model.options))
    run = fit(tmp_path / "run", data, local)
    prediction = run.load_model()(ids_of(data, Split.TEST))
    torch.testing.assert_close(prediction.reach[:, 1], prediction.transition.prod(dim=1))
    train = data.read(data.row_groups(Split.TRAIN))
    clicked = Run(run.folder).load_model()(train.ids).transition[:, 1][train.labels[:, 0] > 0]
    assert float(clicked.mean()) == pytest.approx(data.schema.steps[1].transition_rate, abs=0.03)


def leaf_counts(run: Run, step: int) -> list[int]:
    """Rows in the leaves of a step's first tree."""
    text = (run.folder / f"booster-{step}.txt").read_text()
    return [int(word) for word in text.split("leaf_count=", 1)[1].split("\n", 1)[0].split()]


def test_unobserved_labels_and_rows_without_weight_are_left_out(make_data: MakeData, tmp_path: Path) -> None:
    weight = np.random.default_rng(2).integers(0, 3, 600).astype(float)
    data = make_data(columns={"worth": weight}, unknown={"cart": 0.3}, weight="worth")
    run = fit(tmp_path / "run", data, trees())
    batch = data.read(data.row_groups(Split.TRAIN))
    known = batch.observed & (batch.weight > 0)[:, None]
    assert [sum(leaf_counts(run, step)) for step in (0, 1)] == known.sum(dim=0).tolist()
    assert len(set(known.sum(dim=0).tolist()) | {len(batch)}) == 3


def test_weights_count_as_copies(make_data: MakeData, tmp_path: Path) -> None:
    """A row of weight 3 and three such rows give the same trees, where a leaf is not limited by rows."""
    rows, draw = 400, np.random.default_rng(3)
    price, worth = draw.choice([0, 1, 3, 8, 20, 50], rows), draw.integers(1, 4, rows)
    click, part = draw.random(rows) < 0.2 + 0.1 * np.log1p(price), np.repeat(["train", "valid", "test", "train"], 100)
    loose, reach = trees(min_data_in_leaf=1, feature_fraction=1.0, rounds=3, patience=0), []
    for name, times, weight in (("weighed", np.ones_like(worth), worth), ("copied", worth, np.ones_like(worth))):
        columns = {"price": price, "click": click, "worth": weight.astype(float), "part": part, "user": price}
        columns = {key: np.repeat(column, times) for key, column in columns.items()}
        columns |= {"item": columns["price"], "tags": [["new"]] * len(columns["price"])}
        features = (Feature(name="price", kind="numeric"),)
        data = make_data(name, rows=len(columns["price"]), steps=1, columns=columns, features=features, weight="worth")
        run = fit(tmp_path / f"run-{name}", data, loose)
        reach.append(run.load_model()(torch.arange(2, 8)[:, None]).reach)
    torch.testing.assert_close(*reach, rtol=1e-4, atol=1e-5)
    assert float(reach[0].std()) > 0.02


def test_the_same_seed_gives_the_same_files_on_any_number_of_threads(make_data: MakeData, tmp_path: Path) -> None:
    data, texts = make_data(), []
    for name, seed, threads in (("one", 4, 1), ("two", 4, 2), ("other", 5, 1)):
        torch.set_num_threads(threads)
        run = fit(tmp_path / name, data, trees(bagging_fraction=0.5), seed=seed)
        texts.append((run.folder / "booster-1.txt").read_text().split("parameters:")[0])
    assert texts[0] == texts[1] != texts[2]


def test_a_finished_run_is_kept_and_an_unfinished_one_begins_again(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    run = fit(tmp_path / "run", data, trees())
    files = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.name != "history.json"}
    changed = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != ".lock"}
    fit(run.folder, data, trees(), resume=True)
    assert changed == {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != ".lock"}
    for name in ("manifest.json", "history.json", "booster-1.txt"):
        (run.folder / name).unlink()
    (run.folder / "booster-0.txt").write_text("half")
    with pytest.raises(ArtifactError, match="training is not complete"):
        run.load_model()
    again = fit(run.folder, data, trees(), resume=True)
    assert {n: (again.folder / n).read_bytes() for n in files if n != "manifest.json"} == {
        n: text for n, text in files.items() if n != "manifest.json"
    }
    with pytest.raises(ConfigError, match="another experiment"):
        fit(run.folder, data, trees(rounds=2), resume=True)


def test_the_history_says_what_was_kept(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    run = fit(tmp_path / "run", data, trees(learning_rate=0.8, rounds=400))
    record = json.loads((run.folder / "history.json").read_text())
    valid = data.read(data.row_groups(Split.VALID))
    prediction = run.load_model()(valid.ids)
    for step, booster in enumerate(record["boosters"]):
        own = (run.folder / f"booster-{step}.txt").read_text().count("\nTree=")
        assert own == booster["best_round"] < len(booster["valid_logloss"]) < 400  # patience ended it
        likelihood = torch.where(
            valid.labels[:, step] > 0.5, prediction.log_reach[:, step], prediction.log_not_reach[:, step]
        )
        assert min(booster["valid_logloss"]) == pytest.approx(-float(likelihood.mean()), rel=1e-5)
    assert record["rows"] == data.rows(Split.TRAIN)
    report = evaluate(run, data, Split.VALID)
    assert record["epochs"][-1]["valid_ne"] == pytest.approx([s["reach"]["ne"] for s in report["steps"]], rel=1e-5)


def test_a_caller_hears_of_the_whole_curve_once_when_the_run_is_complete(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    heard: list[list[dict[str, Any]]] = []

    def listen(epochs: Sequence[dict[str, Any]]) -> None:
        assert Run(tmp_path / "run").complete
        heard.append([*epochs])
        raise LookupError

    with pytest.raises(LookupError):
        fit(tmp_path / "run", data, trees(), after_epoch=listen)
    run = fit(tmp_path / "run", data, trees(), resume=True, after_epoch=listen)  # nothing is fitted again
    assert heard == [json.loads((run.folder / "history.json").read_text())["epochs"]]
    assert evaluate(run, data)["steps"][0]["reach"]["auc"] > 0.55


def damage_text(folder: Path) -> None:
    path = folder / "booster-1.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=9", 1))


def remove_booster(folder: Path) -> None:
    (folder / "booster-0.txt").unlink()


def damage_columns(folder: Path) -> None:
    (folder / "trees.json").write_text("{}")


@pytest.mark.parametrize("damage", [damage_text, remove_booster, damage_columns])
def test_a_damaged_run_is_refused(make_data: MakeData, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    run = fit(tmp_path / "run", make_data(), trees())
    damage(run.folder)
    with pytest.raises(ArtifactError, match=r"sha256 should be|is missing"):
        Run(run.folder).load_model()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("booster-0.txt", "tree\nversion=v4", "should hold trees.json and a booster a step"),
        ("trees.json", '{"format": 1, "columns": []}', "its boosters should read 0 columns"),
        ("trees.json", '{"format": 1, "columns": [{"field": "item"}]}', "should hold trees.json"),
        ("trees.json", '{"format": 2, "columns": []}', "format should be 1"),
    ],
)
def test_files_that_do_not_fit_are_refused_whatever_their_checksum(
    make_data: MakeData, tmp_path: Path, file: str, text: str, message: str
) -> None:
    data = make_data()
    run = fit(tmp_path / "run", data, trees())
    (run.folder / file).write_text(text)
    with pytest.raises(ArtifactError, match=message):
        build_model(run.experiment, run.schema).load(run.folder)  # type: ignore[operator]


def test_rows_that_teach_nothing_are_refused(make_data: MakeData, tmp_path: Path) -> None:
    rows = 300
    part = np.repeat(["train", "valid", "test"], 100)
    nothing = make_data("nothing", rows=rows, columns={"worth": (part != "valid") * 1.0, "part": part}, weight="worth")
    with pytest.raises(DataError, match="'click' needs rows with a known label and a weight above 0 in VALID"):
        fit(tmp_path / "run", nothing, trees())
    click = np.ones(rows, np.int8)
    click[:4], worth = 0, np.where(np.arange(rows) < 4, 0.0, 1.0)
    columns = {"click": click, "cart": click * (np.arange(rows) % 2), "worth": worth, "part": part}
    sure = make_data("sure", rows=rows, columns=columns, weight="worth")
    with pytest.raises(DataError, match=r"'click' needs rows of both classes .* TRAIN, received 96 positive and 0"):
        fit(tmp_path / "sure-run", sure, trees())


STEP = Step(name="click", reach_rate=0.25, transition_rate=0.25)
SCHEMA = Schema(dataset="shop", fields=(Field(name="item", size=9),), steps=(STEP,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_leaves": 1}, "'num_leaves' should be a whole number >= 2, received 1"),
        ({"rounds": 0}, "'rounds' should be a whole number >= 1"),
        ({"patience": -1}, "'patience' should be a whole number >= 0"),
        ({"learning_rate": 0.0}, r"'learning_rate' should be in \(0, 1\], received 0.0"),
        ({"feature_fraction": 1.5}, r"'feature_fraction' should be in \(0, 1\], received 1.5"),
        ({"lambda_l2": -1.0}, "'lambda_l2' should be >= 0, received -1.0"),
        ({"space": "outer"}, "option 'space' should be a known word"),
        ({"leaves": 3}, "model 'lightgbm' has no option 'leaves'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(Experiment(name="trees", model=Component(name="lightgbm", options=options)), SCHEMA)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"train": TrainConfig(epochs=3)}, "train.epochs"),
        ({"train": TrainConfig(learning_rate=0.5)}, "train.learning_rate"),
        ({"optimizer": OptimizerConfig(embedding="adam")}, "optimizer"),
        ({"losses": (Component(name="reach_bce"),)}, "losses"),
    ],
)
def test_options_of_the_loop_are_refused(keys: dict[str, Any], named: str) -> None:
    plain = Experiment(name="trees", model=Component(name="lightgbm"), train=TrainConfig(device="cpu", memory_gb=1.0))
    build_model(plain, SCHEMA)
    with pytest.raises(ConfigError, match=f"experiment 'trees': key '{named}' should be left out"):
        build_model(plain.model_copy(update=keys), SCHEMA)


def test_funnels_it_does_not_know_are_refused() -> None:
    value = STEP.model_copy(update={"value": StepValue(mean=3.0, log_mean=1.0, log_std=0.5)})
    with pytest.raises(ConfigError, match="should get steps of kind 'event', received 'click' of kind 'value'"):
        TREES.create("lightgbm", SCHEMA.model_copy(update={"steps": (value,)}), options={})
    branch = STEP.model_copy(update={"name": "call", "parents": ()})
    with pytest.raises(ConfigError, match="should get a chain of steps, received a graph"):
        TREES.create("lightgbm", SCHEMA.model_copy(update={"steps": (STEP, branch)}), options={})


def test_a_missing_extra_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"needs LightGBM, .*pip install 'funnelcast\[trees\]'$"):
        TREES.create("lightgbm", SCHEMA, options={})


def test_before_its_fit_it_predicts_the_rates() -> None:
    steps = (STEP, Step(name="buy", reach_rate=0.1, transition_rate=0.4))
    schema = SCHEMA.model_copy(update={"steps": steps})
    for name in ("lightgbm", "lightgbm_local"):
        model = TREES.create(name, schema, options={})
        torch.testing.assert_close(model(torch.tensor([[2], [3]])).reach, torch.tensor([[0.25, 0.1]] * 2))


def test_names_of_both_registries() -> None:
    assert registry_of("lightgbm_local") is TREES and registry_of("esmm") is MODELS
    assert not set(TREES.names()) & set(MODELS.names())
    with pytest.raises(UnknownNameError, match=r"unknown model 'lightgmb'; did you mean 'lightgbm'\? known: .*apem, "):
        registry_of("lightgmb")


def test_the_page_names_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trees.md").read_text(encoding="utf-8")
    missing = [option for option in TREES.options("lightgbm") if f"`{option}`" not in page]
    assert not missing and "`lightgbm_local`" in page
