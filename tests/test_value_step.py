"""A funnel that ends in a value, from raw rows to report and predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from funnelcast.cli import app
from funnelcast.compare import compare
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.description import StepColumn, load_description
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError
from funnelcast.estimator import Funnel
from funnelcast.evaluate import evaluate
from funnelcast.files import read_json
from funnelcast.predict import predict_file
from funnelcast.report.page import write_report
from funnelcast.saved_scores import load_scores
from funnelcast.scores import Scores, funnel_metrics
from funnelcast.train import fit

TRAIN = {"epochs": 10, "batch_size": 100, "learning_rate": 0.01}
MODELS: dict[str, dict[str, Any]] = {
    "esmm": {"width": 4, "hidden": [8]},
    "apem": {"width": 4, "layers": 1, "inducing_points": 3},
}
STEPS: list[str | StepColumn] = ["click", StepColumn(name="spend", kind="value")]


def shop(rows: int = 3000) -> pa.Table:
    """Items 0..4: the higher one is bought more often and for more."""
    draw = np.random.default_rng(0)
    item = draw.integers(0, 5, rows)
    click = draw.random(rows) < 0.3 + 0.1 * item
    buy = click & (draw.random(rows) < 0.5)
    spend = np.where(buy, np.exp(draw.normal(1.0 + 0.5 * item, 0.5)), 0.0)
    part = np.where(draw.random(rows) < 0.7, "train", np.where(draw.random(rows) < 0.5, "valid", "test"))
    page = draw.integers(0, 3, rows)
    return pa.table({"item": item, "page": page, "click": click.astype(np.int8), "spend": spend, "part": part})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("shop")
    pq.write_table(shop(), folder / "rows.parquet")
    (folder / "shop.toml").write_text(
        'steps = [{name = "click"}, {name = "spend", kind = "value"}]\n'
        'features = [{names = ["item", "page"]}]\n'
        'source = {files = ["rows.parquet"]}\nsplit = {kind = "column", column = "part"}\n'
    )
    prepare(load_description(folder / "shop.toml"), folder / "prepared")
    return PreparedData(folder / "prepared")


def experiment(model: str, *losses: Component) -> Experiment:
    chosen = Component(name=model, options=MODELS[model])
    return Experiment(name=model, model=chosen, losses=losses, train=TrainConfig.model_validate(TRAIN))


@pytest.mark.parametrize(
    ("model", "losses"),
    [
        ("esmm", ()),
        ("apem", ()),
        ("esmm", (Component(name="reach_bce"), Component(name="squared_value"))),
        ("esmm", (Component(name="reach_bce"), Component(name="squared_value", options={"space": "entire"}))),
    ],
    ids=["esmm", "apem", "squared", "squared entire"],
)
def test_report_and_predictions(model: str, losses: tuple[Component, ...], data: PreparedData, tmp_path: Path) -> None:
    run = fit(tmp_path / "run", data, experiment(model, *losses))
    report = evaluate(run, data, Split.TEST)
    click, spend = read_json(run.folder / "report.json", "a report")["steps"]
    assert "value" not in click
    value = spend["value"]
    assert value == report["steps"][1]["value"]
    test = shop().filter(pa.array(shop()["part"].to_numpy(zero_copy_only=False) == "test"))
    actual = test["spend"].to_numpy()
    assert (value["rows"], value["positives"]) == (len(actual), int((actual > 0).sum()))
    assert value["mean_value"] == pytest.approx(actual.mean(), rel=1e-5)
    assert 0.6 < value["bias_ratio"] < 1.6
    assert value["gini"] > 0.4 and value["spearman_positives"] > 0.5
    assert sum(decile["rows"] for decile in value["deciles"]) == len(actual)
    saved = funnel_metrics(load_scores(run, data))[1]["value"]
    for name in ("mean_expected", "mae", "rmse", "bias_ratio", "gini"):
        assert saved[name] == pytest.approx(value[name], rel=1e-6)

    pq.write_table(test.drop_columns(["click", "spend"]), tmp_path / "new.parquet")
    predict_file(run, tmp_path / "new.parquet", tmp_path / "scored.parquet")
    scored = pq.read_table(tmp_path / "scored.parquet")
    assert scored.column_names[3:] == [
        "reach_click",
        "transition_click",
        "reach_spend",
        "transition_spend",
        "value_spend",
    ]
    expected = scored["value_spend"].to_numpy()
    assert float(expected.min()) >= 0.0
    assert value["mean_expected"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert value["mae"] == pytest.approx(float(np.abs(expected - actual).mean()), rel=1e-4)
    by_item = [expected[test["item"].to_numpy() == item].mean() for item in range(5)]
    assert by_item[0] < by_item[2] < by_item[4]


def test_compare_and_its_page_take_a_value_step(data: PreparedData, tmp_path: Path) -> None:
    quick = TrainConfig.model_validate(TRAIN | {"epochs": 1})
    chosen = [experiment(name).model_copy(update={"train": quick}) for name in MODELS]
    compare(chosen, data.folder, tmp_path / "comparison", seeds=1)
    assert write_report(tmp_path / "comparison").is_file()


def test_the_estimator_predicts_the_value(tmp_path: Path) -> None:
    table = shop(1000).drop_columns(["part"])
    funnel = Funnel("esmm", options=MODELS["esmm"], train=TRAIN | {"epochs": 1}).fit(table, steps=STEPS)
    assert funnel.report is not None and funnel.report["steps"][1]["value"]["rows"] > 0
    scores = funnel.predict(table.drop_columns(["click", "spend"]))  # neither is a feature
    assert scores.column_names[-1] == "value_spend" and scores.num_rows == 1000
    funnel.save(tmp_path / "saved")
    again = Funnel.load(tmp_path / "saved").predict(table)
    assert again["value_spend"].equals(scores["value_spend"])
    nothing = funnel.predict(table.slice(0, 0))
    assert (nothing.num_rows, nothing["value_spend"].type) == (0, pa.float32())
    with pytest.raises(ConfigError, match=r"only the last step \('click'\) may have the kind 'value'"):
        Funnel("esmm").fit(table, steps=STEPS[::-1])


def test_a_run_with_a_value_is_not_evaluated_on_data_without(data: PreparedData, tmp_path: Path) -> None:
    quick = experiment("esmm").model_copy(update={"train": TrainConfig.model_validate(TRAIN | {"epochs": 1})})
    run = fit(tmp_path / "run", data, quick)
    other = PreparedData(data.folder)
    last = other.schema.steps[-1].model_copy(update={"value": None})
    other.schema = other.schema.model_copy(update={"steps": (*other.schema.steps[:-1], last)})
    with pytest.raises(ConfigError, match="its fields and steps should be those of the run"):
        evaluate(run, other)


def make_scores(expected: float = 2.0) -> Scores:
    half = np.log(np.full((3, 1), 0.5, dtype=np.float32))
    return Scores(
        steps=("spend",),
        **dict.fromkeys(("log_reach", "log_not_reach", "log_transition", "log_not_transition"), half),
        labels=np.array([[True], [False], [True]]),
        observed=np.array([[True], [True], [False]]),
        weight=np.ones(3, dtype=np.float32),
        value=np.array([6.0, 0.0, 1e9], dtype=np.float32),
        expected_value=np.array([expected, 1.0, 1e9], dtype=np.float32),
        log_mean_value=np.zeros(3, dtype=np.float32),
    )


def test_only_observed_rows_are_measured_and_reasons_stand_beside_nulls() -> None:
    value = funnel_metrics(make_scores())[0]["value"]
    assert (value["rows"], value["positives"], value["mae"], value["bias_ratio"]) == (2, 1, 2.5, 0.5)
    assert value["spearman_positives"] is None
    assert value["spearman_positives_reason"] == "the value is the same in 1 row(s)"
    assert value["deciles"] == [
        {"rows": 1, "expected": 1.0, "value": 0.0},
        {"rows": 1, "expected": 2.0, "value": 6.0},
    ]


def test_rows_with_a_value_are_ranked_by_the_value_alone() -> None:
    """The row of 1e9 has the higher E[value], by its reach, but the lower E[v | last step]."""
    scores = replace(make_scores(), observed=np.ones((3, 1), dtype=bool), log_mean_value=np.array([5.0, 0.0, 4.0]))
    assert funnel_metrics(scores)[0]["value"]["spearman_positives"] == pytest.approx(-1.0)


def test_evaluate_prints_the_value(data: PreparedData, tmp_path: Path) -> None:
    quick = experiment("esmm").model_copy(update={"train": TrainConfig.model_validate(TRAIN | {"epochs": 1})})
    run = fit(tmp_path / "run", data, quick)
    printed = CliRunner().invoke(app, ["evaluate", str(run.folder), "--data", str(data.folder)], color=False)
    assert printed.exit_code == 0
    value = read_json(run.folder / "report.json", "a report")["steps"][1]["value"]
    assert f"value of spend: mean_value {value['mean_value']:.5g}, " in printed.output


def test_a_diverged_value_is_an_error() -> None:
    with pytest.raises(DataError, match="expected value should be finite, received inf in row 0 at step 'spend'"):
        make_scores(np.inf)
