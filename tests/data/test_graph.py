"""Funnels whose steps form a graph: what `prepare` makes of them, and the way from rows to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tests.shop_on_disk import describe_shop, prepare_shop

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.description import Description
from funnelcast.data.loader import Loader
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError
from funnelcast.evaluate import evaluate
from funnelcast.overlap import overlap
from funnelcast.saved_scores import load_scores
from funnelcast.schema import Schema
from funnelcast.scores import funnel_metrics
from funnelcast.train import fit

STEPS: list[Any] = [
    {"name": "click"},
    {"name": "cart"},
    {"name": "wish", "parents": ["click"]},
    {"name": "buy", "parents": ["cart", "not:cart"]},
]
# Row by row: all of it; buys without a cart; a wish after no cart; no click; cart unknown, so buy's scope is unknown.
ROWS: dict[str, Any] = {
    "part": ["train"] * 5 + ["valid", "test"],
    "item": ["a", "b", "a", "b", "a", "b", "a"],
    "click": [1, 1, 1, 0, 1, 1, 1],
    "cart": [1, 0, 0, 0, None, 1, 0],
    "wish": [1, 0, 1, 0, 0, 0, 1],
    "buy": [1, 1, 0, 0, 0, 0, 1],
}


def describe(source: Path, **changes: Any) -> Description:
    return describe_shop(source, **{"steps": STEPS, **changes})


def run(folder: Path, columns: dict[str, Any] | None = None, **changes: Any) -> Path:
    return prepare_shop(folder, **{"steps": STEPS, "columns": ROWS | (columns or {}), **changes})


def test_scopes_and_rates_by_hand(tmp_path: Path) -> None:
    data = PreparedData(run(tmp_path))
    batch = next(Loader(data, Split.TRAIN, 10).in_order())
    assert batch.scope is not None and batch.former is batch.scope
    assert batch.scope[:, 0].tolist() == [True] * 5
    assert batch.scope[:, 1].tolist() == batch.scope[:, 2].tolist() == [True, True, True, False, True]
    assert batch.scope[:, 3].tolist() == [True, True, True, False, False]
    assert [(s.reach_rate, s.transition_rate) for s in data.schema.steps] == [
        (4 / 5, 4 / 5), (1 / 4, 1 / 3), (2 / 5, 2 / 4), (2 / 5, 2 / 3)
    ]  # fmt: skip
    assert not data.schema.graph.is_chain
    assert Schema.load(tmp_path / "out" / "schema.json") == data.schema


def test_a_chain_has_no_scope_of_its_own(tmp_path: Path) -> None:
    columns = {"wish": [1, 0, 0, 0, 0, 0, 0], "buy": [1, 0, 0, 0, 0, 0, 0]}
    data = PreparedData(run(tmp_path, columns, steps=["click", "cart", "wish", "buy"]))
    assert next(Loader(data, Split.TRAIN, 10).in_order()).scope is None


VIOLATIONS = [
    ({"wish": [1, 0, 1, 1, 0, 0, 1]}, STEPS, "'wish' in 1 row"),  # row 3 wishes without a click
    ({"buy": [1, 1, 0, 1, 0, 0, 1]}, STEPS, "'buy' in 1 row"),
    ({}, [*STEPS[:1], {"name": "cart", "group": "g"}, {"name": "wish", "parents": ["click"], "group": "g"}],
     "'wish' in 1 row"),  # rows 0: cart and wish, which exclude each other
]  # fmt: skip


@pytest.mark.parametrize(("columns", "steps", "words"), VIOLATIONS)
def test_violations_are_counted_by_the_graph(
    tmp_path: Path, columns: dict[str, Any], steps: list[Any], words: str
) -> None:
    with pytest.raises(DataError, match=rf"should follow one of its parents and exclude its group, .*{words}\(s\)"):
        run(tmp_path, columns, steps=steps)
    assert not (tmp_path / "out").exists()


def test_violating_rows_can_be_dropped(tmp_path: Path) -> None:
    more = {"part": "train", "item": "a", "click": 0, "cart": 0, "wish": 1, "buy": 0}
    out = run(tmp_path, {key: [*ROWS[key], value] for key, value in more.items()}, labels={"violations": "drop"})
    assert PreparedData(out).rows(Split.TRAIN) == 5
    kept = pq.read_table(out / "violations.parquet")
    assert kept["wish"].to_pylist() == [1] and kept["click"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": [{"name": "click"}, {"name": "buy", "parents": ["cart"]}]}, "parent 'cart' should be a step"),
        ({"steps": [{"name": "click", "parents": ["buy"]}, {"name": "buy"}]}, "'buy' should come before it"),
        ({"steps": [{"name": "click"}, {"name": "buy", "parents": ["not:buy"]}]}, "'not:buy' should come before it"),
        (
            {"steps": [*STEPS[:3], {"name": "buy", "parents": ["cart", "wish"]}]},
            "step 'buy': parents should exclude each other, received 'cart', 'wish', of which two can hold on one row",
        ),
        ({"labels": {"violations": "repair"}}, "'repair' knows which step to undo in a chain alone"),
        ({"steps": [{"name": "click", "parents": "buy"}]}, "tuple"),
    ],
)
def test_wrong_graphs_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        describe(tmp_path / "rows.parquet", **changes)


def shop(rows: int = 4000) -> pa.Table:
    """Items 0..3; a purchase without a cart is rare, but happens."""
    draw = np.random.default_rng(1)
    item = draw.integers(0, 4, rows)
    click = draw.random(rows) < 0.3 + 0.15 * item
    cart = click & (draw.random(rows) < 0.4)
    wish = click & (draw.random(rows) < 0.1 + 0.2 * item)
    buy = click & (draw.random(rows) < np.where(cart, 0.7, 0.1))
    part = np.where(draw.random(rows) < 0.7, "train", np.where(draw.random(rows) < 0.5, "valid", "test"))
    columns = {"click": click, "cart": cart, "wish": wish, "buy": buy}
    return pa.table({"item": item, "part": part, **columns})


def test_from_rows_to_a_report(tmp_path: Path) -> None:
    table = shop()
    pq.write_table(table, tmp_path / "rows.parquet")
    prepare(describe(tmp_path / "rows.parquet"), tmp_path / "out")
    data = PreparedData(tmp_path / "out")
    train = TrainConfig(epochs=6, batch_size=100, learning_rate=0.01)
    experiment = Experiment(name="g", model=Component(name="funnel_graph", options={"hidden": (8,)}), train=train)
    run = fit(tmp_path / "run", data, experiment)
    steps = {step["name"]: step for step in evaluate(run, data, Split.TEST)["steps"]}
    test = table.filter(pa.compute.equal(table["part"], "test")).to_pydict()
    clicks = int(np.sum(test["click"]))
    assert steps["wish"]["transition"]["rows"] == steps["buy"]["transition"]["rows"] == clicks
    assert steps["buy"]["transition"]["positives"] == int(np.sum(test["buy"]))
    for step in steps.values():
        assert 0.85 < step["reach"]["pcoc"] < 1.15
    assert steps["wish"]["transition"]["auc"] > 0.6  # the item decides
    assert steps["buy"]["reach"]["rising_share"] is None
    assert "graph" in steps["buy"]["reach"]["rising_share_reason"]
    for saved in funnel_metrics(load_scores(run, data)):
        for space in ("reach", "transition"):
            assert saved[space]["rows"] == steps[saved["name"]][space]["rows"]
            assert saved[space]["logloss"] == pytest.approx(steps[saved["name"]][space]["logloss"], abs=1e-6)
    with pytest.raises(ConfigError, match="steps should form a chain"):
        overlap(run, data)


def test_a_model_of_chains_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = PreparedData(run(tmp_path))
    with pytest.raises(ConfigError, match="Esmm should get a chain of steps, received a graph; models 'funnel_graph'"):
        fit(tmp_path / "run", data, Experiment(name="e", model=Component(name="esmm")))
    assert not (tmp_path / "run").exists()
