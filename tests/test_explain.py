"""Permutation importance by hand and for every model; the sample; the command from a run to its two files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.conftest import Command
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError
from funnelcast.explain import explain, permutation_importance, sample_rows
from funnelcast.files import sha256, write_json
from funnelcast.layers import FunnelModel
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.run import Run, create_run
from funnelcast.schema import Field, Schema, Step
from funnelcast.train import fit

ESMM = Experiment(
    name="esmm",
    model=Component(name="esmm", options={"hidden": [4]}),
    train=TrainConfig(epochs=1, batch_size=256, device="cpu"),
)
FIELDS = (Field(name="item", size=9), Field(name="tags", size=7, max_length=3), Field(name="page", size=4))


def make_schema(steps: dict[str, tuple[str, ...] | None]) -> Schema:
    known = tuple(Step(name=n, reach_rate=0.3, transition_rate=0.4, parents=p) for n, p in steps.items())
    return Schema(dataset="made", fields=FIELDS, steps=known)


CHAIN = make_schema({"click": None, "buy": None})


def make_batch(rows: int, seed: int = 0) -> Batch:
    draw = np.random.default_rng(seed)
    ids = np.stack([draw.integers(1, f.size, rows) for f in FIELDS for _ in range(f.max_length)], axis=1)
    click = draw.random(rows) < ids[:, 0] / 9
    buy = click & (draw.random(rows) < 0.5)
    return Batch.of(torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(np.stack([click, buy], axis=1)))


def effects(record: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """All effects of a field, over steps, spaces and metrics."""
    (found,) = [f for f in record["fields"] if f["name"] == field]
    spaces = [step[space] for step in found["steps"] for space in ("reach", "transition")]
    return [space[name] for space in spaces for name in ("auc_drop", "logloss_rise")]


def by_item(ids: Tensor) -> Prediction:
    """Knows the item alone."""
    logit = ids[:, 0].float() - 4.0
    return Prediction.from_transitions(torch.stack([logit, logit / 2], dim=1))


def test_fields_that_a_model_does_not_read_have_an_effect_of_exactly_0() -> None:
    record = permutation_importance(by_item, make_batch(400), CHAIN, repeats=3)
    assert record["fields"][0]["name"] == "item"
    for field in ("tags", "page"):
        assert effects(record, field) == [{"mean": 0.0, "std": 0.0}] * 8
    assert all(effect["mean"] > 0.01 for effect in effects(record, "item")[:2])
    assert record["baseline"][0]["reach"]["auc"] > 0.7


def test_two_rows_by_hand() -> None:
    # Ids 5 and 3 give logits 1 and -1; only the first row clicks, so a swap turns an AUC of 1 into 0 and raises the
    # log-loss from softplus(-1) to softplus(1), by 1. The local space of buy has one row, and one class.
    batch = Batch.of(torch.tensor([[5, 2, 2, 2, 2], [3, 2, 2, 2, 2]]), torch.tensor([[1, 1], [0, 0]]))
    record = permutation_importance(by_item, batch, CHAIN, repeats=8, seed=3)
    swaps = [np.random.default_rng([3, 0, repeat]).permutation(2)[0] == 1 for repeat in range(8)]
    assert 0 < sum(swaps) < 8
    drop, rise = effects(record, "item")[:2]
    assert (drop["mean"], drop["std"]) == pytest.approx((np.mean(swaps), np.std(swaps, ddof=1)))
    assert (rise["mean"], rise["std"]) == pytest.approx((np.mean(swaps), np.std(swaps, ddof=1)), abs=1e-6)
    undefined = effects(record, "item")[6]
    assert undefined == {"mean": None, "std": None, "reason": "only one class: 1 positives of 1 rows"}
    assert record["baseline"][1]["transition"]["auc"] is None
    json.dumps(record, allow_nan=False)


def test_all_columns_of_a_field_move_together_and_come_back() -> None:
    batch = make_batch(50)
    rows = {tuple(row) for row in batch.ids[:, 1:4].tolist()}
    seen: list[Tensor] = []

    def watch(ids: Tensor) -> Prediction:
        seen.append(ids.clone())
        return by_item(ids)

    permutation_importance(watch, batch, CHAIN, repeats=2)
    assert len(seen) == 1 + 3 * 2
    for number, ids in enumerate(seen[1:]):
        start, stop = CHAIN.columns[number // 2], CHAIN.columns[number // 2 + 1]
        others = [column for column in range(5) if not start <= column < stop]
        assert torch.equal(ids[:, others], batch.ids[:, others])
        assert not torch.equal(ids[:, start:stop], batch.ids[:, start:stop])
        assert {tuple(row) for row in ids[:, 1:4].tolist()} == rows
    assert not torch.equal(seen[1], seen[2])


def test_seeds_repeat_and_one_repeat_has_no_spread() -> None:
    batch = make_batch(60)
    once = permutation_importance(by_item, batch, CHAIN, repeats=1, seed=1)
    assert once == permutation_importance(by_item, batch, CHAIN, repeats=1, seed=1)
    assert once != permutation_importance(by_item, batch, CHAIN, repeats=1, seed=2)
    assert effects(once, "item")[0]["std"] is None
    for repeats, seed, message in ((0, 0, "'repeats' should be .* >= 1"), (1, -1, "'seed' should be .* >= 0")):
        with pytest.raises(ConfigError, match=message):
            permutation_importance(by_item, batch, CHAIN, repeats=repeats, seed=seed)


SHAPES: dict[str, dict[str, tuple[str, ...] | None]] = {
    "esm2": {"click": None, "cart": None, "buy": ("cart", "not:cart")},
    "hm3": {"click": None, "wish": None, "cart": ("wish", "not:wish"), "buy": ("not:cart", "cart")},
}


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_can_be_explained(name: str) -> None:
    schema = make_schema(SHAPES[name]) if name in SHAPES else CHAIN
    torch.manual_seed(0)
    model: FunnelModel = MODELS.create(name, schema, options={})
    batch = make_batch(24)
    labels = torch.cat([batch.labels, batch.labels[:, 1:].repeat(1, schema.n_steps - 2)], dim=1)
    wide = Batch.of(batch.ids, labels)
    if name in SHAPES:
        wide = replace(wide, scope=torch.ones_like(wide.observed))
    record = permutation_importance(model.eval(), wide, schema, repeats=1)
    assert sorted(field["name"] for field in record["fields"]) == ["item", "page", "tags"]
    # Some field must matter to a model that predicts different things of different rows.
    assert any(effects(record, field.name)[1]["mean"] != 0.0 for field in FIELDS)


def test_a_sample_holds_each_row_once_in_order(prepared: Path) -> None:
    data = PreparedData(prepared)
    files = [f["path"] for f in data.manifest["splits"]["train"]["files"]]
    everything = pa.concat_tables([pq.read_table(prepared / path) for path in files])
    batch, numbers = sample_rows(data, Split.TRAIN, 130, seed=0)
    assert len(batch) == len(numbers) == 130 and (np.diff(numbers) > 0).all() and numbers[-1] < 1000
    picked = everything.take(pa.array(numbers))
    assert batch.ids[:, 0].tolist() == picked["field.item"].to_pylist()
    assert batch.labels[:, 0].tolist() == picked["label.click"].to_pylist()
    assert batch.user is not None and batch.user.tolist() == picked["user"].to_pylist()
    again, _ = sample_rows(data, Split.TRAIN, 130, seed=0)
    other, _ = sample_rows(data, Split.TRAIN, 130, seed=1)
    assert torch.equal(again.ids, batch.ids) and not torch.equal(other.ids, batch.ids)
    whole, numbers = sample_rows(data, Split.TEST, 10_000, seed=0)
    assert len(whole) == 300 and numbers.tolist() == list(range(300))


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Run:
    fit(tmp_path / "run", PreparedData(prepared), ESMM, seed=0)
    return Run(tmp_path / "run")


def test_both_files_are_written(run: Run, prepared: Path) -> None:
    found = explain(run, PreparedData(prepared), repeats=2, rows=200, columns=["page", "user:train"], min_rows=5)
    assert json.loads((run.folder / "importance.json").read_text()) == found.importance
    assert json.loads((run.folder / "decomposition.json").read_text()) == found.decomposition
    head = {"format": 1, "split": "test", "split_rows": 300, "rows": 200}
    for record in (found.importance, found.decomposition or {}):
        assert {key: record[key] for key in head} == head
    assert (found.importance["repeats"], found.importance["seed"]) == (2, 0)
    drops = [field["steps"][-1]["reach"]["auc_drop"]["mean"] for field in found.importance["fields"]]
    assert drops == sorted(drops, reverse=True)
    page, user = (found.decomposition or {})["columns"]
    assert [segment["value"] for segment in page["segments"]] == ["null", "unknown", "home", "search"]
    assert sum(segment["rows"] for segment in page["segments"]) == 200
    # All rows are the segments together.
    for column in (page, user):
        expected = sum(segment["rows"] * segment["expected_per_1000"] for segment in column["segments"]) / 200
        assert (found.decomposition or {})["overall"]["expected_per_1000"] == pytest.approx(expected)


class AnyPredictor:
    """No module, no parameters: ids in, a prediction out."""

    def __call__(self, ids: Tensor) -> Prediction:
        return by_item(ids)


def test_a_run_may_hold_anything_that_predicts(run: Run, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "load_model", lambda self: AnyPredictor())
    found = explain(run, PreparedData(prepared), repeats=1)
    assert found.importance["fields"][0]["name"] == "item"
    assert effects(found.importance, "page") == [{"mean": 0.0, "std": None}] * 8


def branch(folder: Path) -> Path:
    """Let `buy` no longer need a click, in a prepared folder: its steps are then no chain."""
    schema = Schema.load(folder / "schema.json")
    steps = (schema.steps[0], schema.steps[1].model_copy(update={"parents": ()}))
    schema.model_copy(update={"steps": steps}).save(folder / "schema.json")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["schema.json"] = sha256(folder / "schema.json")
    write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture
def command(command: Command) -> Command:
    """Run `funnelcast explain ...`."""
    return partial(command, "explain")


def test_command_prints_both_tables(run: Run, command: Command) -> None:
    code, out, err = command(str(run.folder), "--repeats", "2", "--by", "page", "--min-rows", "5", "--split", "valid")
    assert code == 0, err
    record = json.loads((run.folder / "decomposition.json").read_text())
    assert "300 of 300 rows of valid, shuffles of each field: 2" in out
    assert all(word in out for word in ("item", "tags", "all rows", "home"))
    worst = max(record["overall"]["steps"], key=lambda step: step["share"])
    assert f"{worst['name']} loses most customers: {worst['share']:.1%} of the loss" in out
    assert f"{record['overall']['expected_per_1000']:.2f}" in out


def test_a_graph_has_importance_but_no_decomposition(prepared: Path, tmp_path: Path, command: Command) -> None:
    graph = ESMM.model_copy(update={"model": Component(name="funnel_graph", options={"hidden": [4]})})
    run = tmp_path / "graph"
    fit(run, PreparedData(branch(prepared)), graph, seed=0)
    code, out, err = command(str(run), "--repeats", "1")
    assert code == 0, err
    assert "no decomposition: the steps form a graph" in out
    assert (run / "importance.json").exists() and not (run / "decomposition.json").exists()
    code, _, err = command(str(run), "--by", "page")
    assert code == 2 and "--by should be left out for a graph of steps" in err


def test_command_refuses(run: Run, prepared: Path, make_prepared: Callable[..., Path], command: Command) -> None:
    empty = make_prepared("empty", rows={"train": 50, "valid": 20, "test": 0})
    for words, message in (
        (("--by", "pgae"), "there is no column 'pgae'; did you mean 'page'?"),
        (("--repeats", "0"), "option 'repeats' should be a whole number >= 1, received 0"),
        (("--rows", "0"), "option 'rows' should be a whole number >= 1, received 0"),
        (("--seed", "-1"), "option 'seed' should be a whole number >= 0, received -1"),
        (("--split", "all"), "--split should be one of train, valid, test, received 'all'"),
        (("--data", str(empty)), "the split 'test' should have rows, received none"),
    ):
        code, _, err = command(str(run.folder), *words)
        assert code == 2 and message in err
    begun = run.folder.with_name("begun")
    create_run(begun, PreparedData(prepared), ESMM, 0, resume=False)
    code, _, err = command(str(begun))
    assert code == 2 and "training is not complete" in err
    assert not list(run.folder.glob("importance*")) and not list(run.folder.glob("decomposition*"))
