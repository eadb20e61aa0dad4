"""`funnelcast inspect`: the record, its drift and its errors, on a small trained run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.conftest import Command

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.encode import Encoders, Vocabulary
from funnelcast.data.encode_categories import Multi
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.drift import psi
from funnelcast.errors import ConfigError
from funnelcast.files import sha256, write_json
from funnelcast.gates import GateLayer
from funnelcast.inspection import gate_drift, gate_map, inspect_gates, segments
from funnelcast.models.apem import Apem
from funnelcast.probe import gates_of, spread_rows
from funnelcast.run import Run, create_run
from funnelcast.train import fit

SIZES = {"inducing_points": 5, "layers": 2, "width": 4}


def experiment(model: str = "apem", **options: Any) -> Experiment:
    options = {**(SIZES if model == "apem" else {}), **options}
    train = TrainConfig(epochs=2, batch_size=64, device="cpu", patience=0)
    return Experiment(name=model, model=Component(name=model, options=options), train=train)


@pytest.fixture
def data(prepared: Path) -> PreparedData:
    """The handmade folder, with encoders that know its values."""
    columns = [
        Vocabulary("item", "item", pa.array([f"item {i}" for i in range(7)])),
        Vocabulary("tags", "tags", pa.array(["a", "b", "c", "d"]), Multi(None, 3)),
        Vocabulary("page", "page", pa.array(["home", "<b>shop</b>"])),
    ]
    Encoders(columns).save(prepared / "encoders.json")
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["files"]["encoders.json"] = sha256(prepared / "encoders.json")
    write_json(prepared / "manifest.json", manifest)
    return PreparedData(prepared)


@pytest.fixture
def run(data: PreparedData, tmp_path: Path) -> Run:
    """A trained APEM of five gates in two layers."""
    return fit(tmp_path / "run", data, experiment(), seed=1)


@pytest.fixture
def command(command: Command) -> Command:
    """Run `funnelcast inspect ...`."""
    return partial(command, "inspect")


def test_the_record_says_what_the_models_gates_say(run: Run, data: PreparedData) -> None:
    record = inspect_gates(run, data, map_rows=90)
    assert record == json.loads((run.folder / "gates.json").read_text())
    assert (record["format"], record["split"], record["rows"], record["by"]) == (1, "test", 300, None)
    ids = data.read(data.row_groups(Split.TEST)).ids
    for layer, told in zip(record["layers"], run.load_model().gate_layers(ids), strict=True):
        z = told.values.detach().numpy()
        assert layer["name"] == told.name
        assert [slot["open_rate"] for slot in layer["slots"]] == pytest.approx((z > 0.5).mean(axis=0))
        assert layer["dead"] == int((z <= 0.1).all(axis=0).sum())
        counts = np.bincount((z > 0.5).sum(axis=1), minlength=6)
        assert layer["rate_histogram"]["counts"] == counts.tolist()
    points = record["map"]
    assert [len(points[key]) for key in ("pca", "tsne", "group", "reached")] == [90] * 4
    assert sum(group["rows"] for group in points["groups"]) == 90
    rates = [group["rate"] for group in points["groups"]]
    assert rates == sorted(rates)
    assert set(points["reached"]) <= {0, 1, 2}


def test_the_curve_begins_where_the_schedule_does_and_ends_at_its_floor(run: Run, data: PreparedData) -> None:
    record = inspect_gates(run, data, map_rows=0)
    assert [point["step"] for point in record["gamma_curve"]] == [0, 32]
    assert [point["gamma"] for point in record["gamma_curve"]] == pytest.approx([10.0, 0.05])
    assert record["map"] is None
    history = json.loads((run.folder / "history.json").read_text())
    old = [{key: value for key, value in point.items() if key != "model"} for point in history["loss"]]
    write_json(run.folder / "history.json", {**history, "loss": old})  # a run of a former version
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["files"]["history.json"] = sha256(run.folder / "history.json")
    write_json(run.folder / "manifest.json", manifest)
    (run.folder / "figures" / "gates-gamma.svg").unlink()
    record = inspect_gates(run, data, map_rows=0)
    assert record["gamma_curve"] == []
    # Without averages, the kept weights have the gamma of the last step of their epoch, one of 16.
    done = 16 * (history["best_epoch"] + 1) - 1
    assert record["gamma"] == pytest.approx(max(10 * (1 - done / 16), 0.05))
    assert not (run.folder / "figures" / "gates-gamma.svg").exists()


def test_segments_of_a_field_hold_all_rows(run: Run, data: PreparedData) -> None:
    record = inspect_gates(run, data, by="page", map_rows=0)
    ids = data.read(data.row_groups(Split.TEST)).ids
    names = ["(missing)", "(unknown)", "home", "<b>shop</b>"]
    pages = np.bincount(ids[:, 4].numpy(), minlength=4)
    for layer in record["layers"]:
        assert {s["value"]: s["rows"] for s in layer["segments"]} == dict(zip(names, pages.tolist(), strict=True))
        assert [s["rows"] for s in layer["segments"]] == sorted(pages.tolist(), reverse=True)
        mean = sum(s["rows"] * s["rate"] for s in layer["segments"]) / 300
        assert mean == pytest.approx(layer["rate"])


def test_rare_values_are_put_together() -> None:
    values = pa.array([f"v{i}" for i in range(30)])
    ids = np.concatenate([np.full(40 - i, 2 + i) for i in range(30)])
    number, names = segments(Encoders([Vocabulary("item", "item", values)]), "item", ids)
    assert names == [*(f"v{i}" for i in range(20)), "(others)"]
    assert np.bincount(number).tolist() == [*range(40, 20, -1), sum(40 - i for i in range(20, 30))]


def test_drift_by_hand() -> None:
    reference = GateLayer("layer 1", torch.tensor([[0.9, 0.0], [0.9, 0.9], [0.0, 0.9], [0.0, 0.0]]))
    current = GateLayer("layer 1", torch.tensor([[0.9, 0.0], [0.9, 0.4]]))
    found = gate_drift(reference, current)
    # The first gate: open on 2 of 4 rows, then on 2 of 2; the second on 2 of 4, then on none.
    assert found["slots"] == pytest.approx([psi(np.array([2, 2]), np.array([2, 0]))] * 2)
    # Open gates a row: 1, 2, 1, 0 and then 1, 1.
    assert found["rate"] == pytest.approx(psi(np.array([1, 2, 1]), np.array([0, 2, 0])))
    assert (found["bins"], found["rate_by_chance"]) == (3, 2 * (1 / 4 + 1 / 2))
    assert found["words"] == "moderate shift"  # of shares 1/4, 1/2, 1/4 to 1/6, 2/3, 1/6: ln(3/2) / 6 + ln(4/3) / 6
    assert found["rate"] == pytest.approx(np.log(2) / 6)
    same = gate_drift(reference, reference)
    assert (same["rate"], same["slots"], same["words"]) == (0.0, [0.0, 0.0], "stable")


def test_drift_between_two_splits(run: Run, data: PreparedData) -> None:
    record = inspect_gates(run, data, rows=200, against=(data, Split.TRAIN), map_rows=0)
    assert record["drift"]["against"] == {"folder": str(data.folder), "split": "train", "rows": 200}
    model = run.load_model()
    pair = [gates_of(model, spread_rows(data, split, 200).ids) for split in (Split.TRAIN, Split.TEST)]
    for layer, reference, current in zip(record["drift"]["layers"], *pair, strict=True):
        opened = [(gates.values > 0.5).sum(dim=0).numpy() for gates in (reference, current)]
        tables = [np.stack([count, 200 - count], axis=1) for count in opened]
        assert layer["slots"] == pytest.approx([psi(*rows) for rows in zip(*tables, strict=True)])


def test_a_map_of_rows_that_open_the_same_gates_has_one_group(data: PreparedData) -> None:
    model = Apem(data.schema, width=4, inducing_points=5, layers=2).eval()
    batch = spread_rows(data, Split.TEST, 8)
    layers = [GateLayer("layer 1", torch.full((8, 5), 0.7))]
    found = gate_map(model, batch, layers, rows=100)
    assert found["groups"] == [{"group": "middle", "rows": 8, "rate": 1.0}]
    assert found["tsne"] is None  # of 8 rows
    layers = [GateLayer("layer 1", torch.tensor([[0.7], [0.2]]).repeat(4, 5))]
    found = gate_map(model, batch, layers, rows=100)
    assert found["group"] == ["high", "low"] * 4


def test_command_writes_figures_and_says_what_it_found(run: Run, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "figures"
    words = ("--rows", "120", "--map-rows", "40", "--by", "page", "--against", "valid", "--out", str(out))
    code, printed, err = command(str(run.folder), *words)
    assert code == 0, err
    record = json.loads((run.folder / "gates.json").read_text())
    assert record["rows"] == record["drift"]["against"]["rows"] == 120
    assert "<b>shop</b>" in printed and "layer 2, drift of the selection rate: " in printed
    assert "of the kept weights" in printed and f"figures in {out}" in printed
    names = {path.name for path in out.iterdir()}
    assert names == {
        "gates-rates.svg", "gates-gamma.svg", "gates-smooth-step.svg", "gates-rate-1.svg", "gates-rate-2.svg",
        "gates-slots-1.svg", "gates-slots-2.svg", "gates-segments-1.svg", "gates-segments-2.svg", "gates-drift.svg",
        "gates-pca-group.svg", "gates-pca-reached.svg", "gates-tsne-group.svg", "gates-tsne-reached.svg",
    }  # fmt: skip
    for path in out.iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert not (run.folder / "figures").exists()


def test_other_models_with_gates_are_inspected(data: PreparedData, tmp_path: Path, command: Command) -> None:
    run = fit(tmp_path / "mmoe", data, experiment("mmoe", experts=3, expert=[6]), seed=0)
    code, printed, err = command(str(run.folder), "--map-rows", "30", "--against", str(data.folder))
    assert code == 0, err
    record = json.loads((run.folder / "gates.json").read_text())
    assert [layer["name"] for layer in record["layers"]] == ["step click", "step buy"]
    assert record["gamma"] is None and record["gamma_curve"] == []
    assert [layer["rate"] for layer in record["drift"]["layers"]] == [0.0, 0.0]  # the same rows of the same folder
    assert "step buy" in printed
    titles = [ElementTree.parse(path).getroot()[0].text for path in (run.folder / "figures").iterdir()]
    assert "step buy: gates by open rate" in titles


@pytest.mark.parametrize(
    ("model", "options", "received"),
    [
        ("apem", {"gate": "none"}, "'apem' with inducing_points = 5, layers = 2, width = 4, gate = 'none'"),
        ("shared_bottom", {}, "'shared_bottom'"),
    ],
)
def test_a_model_without_gates_is_one_error(
    data: PreparedData, tmp_path: Path, command: Command, model: str, options: dict[str, Any], received: str
) -> None:
    run = fit(tmp_path / "run", data, experiment(model, **options), seed=0)
    code, _, err = command(str(run.folder))
    assert code == 2
    able = "apem, apem_dense, dselect_k, mmoe, ple"
    expected = f"its model should have gates, received {received}; models that can have them: {able}"
    assert err == f"error: {run.folder}: {expected}\n"
    assert not (run.folder / "gates.json").exists() and not (run.folder / "figures").exists()


def test_wrong_options_are_refused(run: Run, data: PreparedData, command: Command, tmp_path: Path) -> None:
    wrong = {
        ("--rows", "0"): "rows should be a number >= 1, received 0",
        ("--map-rows", "2001"): "the rows of the map should be a number from 0 to 2,000, received 2001",
        ("--by", "tags"): "--by should be a field with one value a row, received 'tags'; known: item, page",
        ("--by", "itme"): "received 'itme'; did you mean 'item'? known: item, page",
        ("--against", "tset"): "--against should be one of train, valid, test or a prepared folder, received 'tset'",
        ("--split", "all"): "--split should be one of train, valid, test, received 'all'",
        ("--out", str(data.folder / "manifest.json")): "should be a folder, but cannot be made",
    }
    for words, message in wrong.items():
        code, _, err = command(str(run.folder), "--map-rows", "0", *words)
        assert code == 2 and message in err, err
    assert not (run.folder / "gates.json").exists()
    create_run(tmp_path / "begun", data, experiment(), 0, resume=False)
    code, _, err = command(str(tmp_path / "begun"))
    assert code == 2 and "training is not complete" in err


def test_rows_with_other_encoders_are_refused(run: Run, data: PreparedData, make_prepared: Callable[..., Path]) -> None:
    other = PreparedData(make_prepared("other"))  # the same sizes, and encoders that know no value
    assert other.schema == data.schema
    for arguments in ((other, Split.TEST, None), (data, Split.TEST, (other, Split.TEST))):
        with pytest.raises(ConfigError, match="its encoders, fitted on its TRAIN, should be those of the run"):
            inspect_gates(run, arguments[0], arguments[1], against=arguments[2])


def test_rows_of_another_schema_are_refused(run: Run, data: PreparedData, make_prepared: Callable[..., Path]) -> None:
    other = make_prepared("other")
    schema = json.loads((other / "schema.json").read_text())
    schema["fields"][0]["size"] += 1
    write_json(other / "schema.json", schema)
    strange = PreparedData(other, verify=False)
    for arguments in ((strange, Split.TEST, None), (data, Split.TEST, (strange, Split.TEST))):
        with pytest.raises(ConfigError, match="its fields and steps should be those of the run"):
            inspect_gates(run, arguments[0], arguments[1], against=arguments[2])
