"""Slices equal metrics of the subset by hand; undefined ones stay null; the command from a run to slices.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from tests.conftest import Command

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError
from funnelcast.run import Run, create_run
from funnelcast.scores import Scores, funnel_metrics
from funnelcast.segments import Column, Segment, Segmentation
from funnelcast.slices import auc_standard_error, largest_gaps, slice_metrics, slices
from funnelcast.train import fit

ESMM = Experiment(
    name="esmm",
    model=Component(name="esmm", options={"hidden": [4]}),
    train=TrainConfig(epochs=1, batch_size=256, device="cpu"),
)


def make_scores(rows: int, seed: int = 0) -> Scores:
    draw = np.random.default_rng(seed)
    transition = draw.uniform(0.1, 0.9, (rows, 2))
    reach = np.cumprod(transition, axis=1)
    happened = np.cumprod(draw.random((rows, 2)) < transition, axis=1).astype(bool)
    logs = (np.log(reach), np.log1p(-reach), np.log(transition), np.log1p(-transition))
    weight = draw.uniform(0.5, 2.0, rows).astype(np.float32)
    user = draw.integers(0, 9, rows)
    return Scores(("click", "buy"), *logs, happened, np.ones_like(happened), weight, user=user)


def by_hand(*parts: list[int]) -> Segmentation:
    segments = tuple(Segment(f"part {number}", np.array(rows)) for number, rows in enumerate(parts))
    return Segmentation(Column("tab", "field", "tab"), False, segments)


def test_a_slice_is_measured_on_its_rows_alone() -> None:
    scores, rows = make_scores(300), list(range(7, 207))
    (column,) = slice_metrics(scores, [by_hand(rows, [3, 5])])
    assert (column["column"], column["kind"], column["overlapping"]) == ("tab", "field", False)
    one, two = column["slices"]
    assert (one["value"], one["rows"], two["rows"]) == ("part 0", 200, 2)
    click, buy = one["steps"]
    w, p, y = scores.weight[rows], np.exp(scores.log_reach[rows, 0]), scores.labels[rows, 0]
    assert click["reach"]["auc"] == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-12)
    assert click["reach"]["logloss"] == pytest.approx(log_loss(y, p, sample_weight=w), rel=1e-9)
    local = [row for row in rows if scores.labels[row, 0]]
    expected = roc_auc_score(
        scores.labels[local, 1], scores.log_transition[local, 1], sample_weight=scores.weight[local]
    )
    assert buy["transition"]["auc"] == pytest.approx(expected, abs=1e-12)
    assert (buy["transition"]["rows"], click["positives"]) == (len(local), int(y.sum()))


def test_taking_all_rows_changes_nothing_and_every_column_goes_along() -> None:
    scores = make_scores(50)
    full = replace(scores, true_reach=scores.log_reach, value=scores.weight, scope=scores.labels)
    assert funnel_metrics(scores.take(np.arange(50))) == funnel_metrics(scores)
    some = full.take(np.arange(50) % 2 == 1)
    np.testing.assert_array_equal(some.true_reach, scores.log_reach[1::2])
    np.testing.assert_array_equal(some.value, scores.weight[1::2])
    np.testing.assert_array_equal(some.scope, scores.labels[1::2])
    assert some.true_transition is None and some.steps == scores.steps


def test_an_undefined_metric_is_null_with_its_reason() -> None:
    scores = replace(make_scores(6), labels=np.array([[1, 0]] * 3 + [[0, 0]] * 3, dtype=bool))
    (column,) = slice_metrics(scores, [by_hand([0, 1])])
    reach = column["slices"][0]["steps"][0]["reach"]
    assert (reach["auc"], reach["auc_reason"]) == (None, "only one class: 2 positives of 2 rows")
    assert largest_gaps(funnel_metrics(scores), [column]) == []


def test_standard_error_of_an_auc_by_hand_and_by_simulation() -> None:
    a, m, n = 0.8, 3, 5
    square = (a * (1 - a) + (m - 1) * (a / (2 - a) - a * a) + (n - 1) * (2 * a * a / (1 + a) - a * a)) / (m * n)
    assert auc_standard_error(a, m, n) == pytest.approx(math.sqrt(square))
    draw = np.random.default_rng(0)
    # For exponential scores the formula is exact; the rates 1 and 1/3 give an AUC of 3/4.
    values = [
        roc_auc_score([1] * 40 + [0] * 60, np.append(draw.exponential(3.0, 40), draw.exponential(1.0, 60)))
        for _ in range(400)
    ]
    assert np.mean(values) == pytest.approx(0.75, abs=0.01)
    assert np.std(values) == pytest.approx(auc_standard_error(0.75, 40, 60), rel=0.15)


def test_gaps_are_told_in_words_the_largest_first() -> None:
    def step(auc: float | None, local: float | None = None) -> list[dict[str, object]]:
        reach = {"auc": auc, "rows": 1000, "positives": 400}
        transition = {"auc": local, "rows": 400, "positives": 100}
        return [
            {"name": "click", "reach": reach, "transition": reach},
            {"name": "buy", "reach": {**reach, "auc": None}, "transition": transition},
        ]

    parts = [("new", step(0.66, 0.5)), ("old", step(0.74, 0.7)), ("odd", step(None)), ("near", step(0.71))]
    column = {"column": "user:train", "slices": [{"value": value, "steps": steps} for value, steps in parts]}
    found = largest_gaps(step(0.73, 0.8), [column])
    assert [gap["sentence"] for gap in found] == [
        "buy: transition AUC 0.5000 on user:train = new against 0.8000 overall",
        "buy: transition AUC 0.7000 on user:train = old against 0.8000 overall",
        "click: reach AUC 0.6600 on user:train = new against 0.7300 overall",
    ]
    assert found[2]["difference"] == pytest.approx(0.07)
    assert found[2]["standard_error"] == auc_standard_error(0.66, 400, 600)


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Run:
    fit(tmp_path / "run", PreparedData(prepared), ESMM, seed=0)
    return Run(tmp_path / "run")


def test_the_file_holds_every_column(run: Run, prepared: Path) -> None:
    record = slices(run, PreparedData(prepared), ["page", "frequency:item", "user:train"], min_rows=10)
    assert json.loads((run.folder / "slices.json").read_text()) == record
    assert (record["format"], record["split"], record["rows"], record["min_rows"]) == (1, "test", 300, 10)
    assert [column["kind"] for column in record["columns"]] == ["field", "frequency", "user"]
    page, item, user = record["columns"]
    raw = pq.read_table(prepared / "test" / "part-00000.parquet").to_pandas()
    assert [one["value"] for one in page["slices"]] == ["null", "unknown", "home", "search"]
    sizes = [int((raw["field.page"] == value).sum()) for value in range(4)]
    assert [one["rows"] for one in page["slices"]] == sizes
    assert page["slices"][2]["steps"][0]["positives"] == int(raw["label.click"][raw["field.page"] == 2].sum())
    for column in (page, item, user):
        assert sum(one["rows"] for one in column["slices"]) == 300
    assert record["comparisons"] == sum(
        one["steps"][i][space]["auc"] is not None
        for column in record["columns"]
        for one in column["slices"]
        for i, space in ((0, "reach"), (1, "reach"), (1, "transition"))
    )


@pytest.fixture
def command(command: Command) -> Command:
    """Run `funnelcast slices ...`."""
    return partial(command, "slices")


def test_command_prints_a_table_and_words(run: Run, command: Command) -> None:
    code, out, err = command(
        str(run.folder), "--by", "page", "--by", "user:split", "--split", "valid", "--min-rows", "10"
    )
    assert code == 0, err
    record = json.loads((run.folder / "slices.json").read_text())
    assert record["split"] == "valid"
    assert "all rows" in out and "search" in out and "rows on the split" in out
    assert f"{record['steps'][1]['transition']['auc']:.4f}" in out
    assert f"{len(record['gaps'])} of {record['comparisons']} AUCs are more than two standard errors below" in out
    assert all(gap["sentence"] in out for gap in record["gaps"][:10])


def test_command_refuses(run: Run, prepared: Path, make_prepared: Callable[..., Path], command: Command) -> None:
    code, _, err = command(str(run.folder), "--by", "pgae")
    assert code == 2 and "there is no column 'pgae'; did you mean 'page'? known: frequency:FIELD, item, page" in err
    code, _, err = command(str(run.folder), "--by", "time:day")
    assert code == 2 and "the data have no time" in err
    code, _, err = command(str(run.folder))
    assert code == 2 and "Missing option '--by'" in err
    code, _, err = command(str(run.folder), "--by", "page", "--min-rows", "0")
    assert code == 2 and "option 'min_rows' should be a whole number >= 1, received 0" in err
    empty = make_prepared("empty", rows={"train": 50, "valid": 20, "test": 0})
    code, _, err = command(str(run.folder), "--by", "page", "--data", str(empty))
    assert code == 2 and "the split 'test' should have rows, received none" in err
    begun = run.folder.with_name("begun")
    create_run(begun, PreparedData(prepared), ESMM, 0, resume=False)
    code, _, err = command(str(begun), "--by", "page")
    assert code == 2 and "training is not complete" in err
    assert not (run.folder / "slices.json").exists() and not (begun / "slices.json").exists()


def test_no_column_is_refused(run: Run, prepared: Path) -> None:
    with pytest.raises(ConfigError, match="at least one column should be named by --by"):
        slices(run, PreparedData(prepared), [])
