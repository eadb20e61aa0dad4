"""The command: fitted on VALID, measured on TEST, kept with the run, used by predict and by `evaluate --calibrated`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.test_estimator import fitted, frame

from funnelcast import metrics
from funnelcast.calibrate import calibrate
from funnelcast.calibration import METHODS, Method
from funnelcast.cli import main
from funnelcast.compare import compare
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.estimator import Funnel
from funnelcast.evaluate import evaluate, score
from funnelcast.files import sha256
from funnelcast.graph import FunnelGraph
from funnelcast.predict import Predictor, calibrate_prediction, predict_file
from funnelcast.prediction import Prediction
from funnelcast.run import Run
from funnelcast.train import fit

ESMM = Experiment(
    name="esmm",
    model=Component(name="esmm", options={"hidden": [4]}),
    train=TrainConfig(epochs=1, batch_size=64, device="cpu", learning_rate=0.02),
)


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Run:
    return fit(tmp_path / "run", PreparedData(prepared), ESMM)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_is_what_evaluate_measures(run: Run, prepared: Path, method: Method) -> None:
    data = PreparedData(prepared)
    before = evaluate(run, data)
    curves = json.loads((run.folder / "curves.json").read_text())
    record = calibrate(run, data, method=method)
    assert json.loads((run.folder / "calibration.json").read_text()) == record
    assert record["method"] == method and record["measured_on"] == {"split": "test", "rows": 300}
    assert record["fitted_on"]["split"] == "valid" and record["fitted_on"]["rows"] == 300
    assert record["fitted_on"]["weights_sha256"] == sha256(run.folder / "weights.safetensors")
    assert json.loads((run.folder / "report.json").read_text()) == before  # it is not touched
    after = evaluate(run, data, calibrated=True)
    assert (before["calibration"], after["calibration"]) == (None, method)
    for number, step in enumerate(record["steps"]):
        for space in ("reach", "transition"):
            assert step["before"][space]["reliability"] == curves["steps"][number][space]["reliability"]
            for metric in ("ece", "pcoc", "logloss", "ne", "auc"):
                assert step["before"][space][metric] == before["steps"][number][space][metric]
                assert step["after"][space][metric] == after["steps"][number][space][metric]


def test_a_fit_does_not_see_test_and_gives_the_same_bytes_twice(run: Run, make_prepared: Any) -> None:
    folder = make_prepared("other")  # the same rows
    first = calibrate(run, PreparedData(folder))
    content = (run.folder / "calibration.json").read_bytes()
    assert calibrate(run, PreparedData(folder)) == first
    assert (run.folder / "calibration.json").read_bytes() == content
    table = pq.read_table(folder / "test" / "part-00000.parquet")
    shuffled = table.set_column(
        table.column_names.index("label.click"), "label.click", pa.array(np.ones(table.num_rows, np.int8))
    )
    pq.write_table(shuffled, folder / "test" / "part-00000.parquet")
    second = calibrate(run, PreparedData(folder, verify=False))
    assert [step["parameters"] for step in second["steps"]] == [step["parameters"] for step in first["steps"]]
    assert second["sha256"] == first["sha256"]
    assert second["steps"][0]["after"] != first["steps"][0]["after"]


def test_errors_within_a_field(run: Run, prepared: Path) -> None:
    data = PreparedData(prepared)
    (item, page) = calibrate(run, data, fields=["item", "page"])["fields"]
    assert (item["name"], page["name"]) == ("item", "page")
    scores = score(run.load_model(), Loader(data, Split.TEST, 100))
    pages = data.read(data.row_groups(Split.TEST)).ids[:, 4].numpy()
    p, y = np.exp(scores.log_reach[:, 0], dtype=np.float64), scores.labels[:, 0]
    expected = sum(abs((y - p)[pages == value].sum()) for value in range(4)) / 300
    assert page["steps"][0]["before"]["reach"]["field_ece"] == pytest.approx(expected)
    for name, message in [("tags", "one value a row; known: item, page"), ("pag", "did you mean 'page'")]:
        with pytest.raises(ConfigError, match=message):
            calibrate(run, data, fields=[name])


def test_a_prediction_is_calibrated_as_its_scores_are(run: Run, prepared: Path) -> None:
    data = PreparedData(prepared)
    calibrate(run, data)
    calibration, model = run.load_calibration(), run.load_model()
    batch = data.read(data.row_groups(Split.TEST))
    with torch.no_grad():
        found = calibrate_prediction(calibration, model(batch.ids))
    expected = calibration.scores(score(model, Loader(data, Split.TEST, 100)))
    for name in ("log_reach", "log_not_reach", "log_transition", "log_not_transition"):
        assert getattr(found, name).dtype == torch.float32
        np.testing.assert_allclose(getattr(found, name).numpy(), getattr(expected, name), rtol=1e-5, atol=1e-6)


def test_a_value_follows_the_calibrated_reach(run: Run, prepared: Path) -> None:
    calibrate(run, PreparedData(prepared), method="platt")
    before = Prediction.from_transitions(torch.tensor([[0.3, -1.0], [2.0, 0.1]]))
    valued = replace(before, value_location=torch.ones(2), value_scale=torch.ones(2))
    after = calibrate_prediction(run.load_calibration(), valued)
    torch.testing.assert_close(after.expected_value, after.reach[:, 1] * np.exp(1.5))


def saved(tmp_path: Path) -> tuple[Funnel, Run, Path]:
    """A saved funnel whose run has a calibration, and its prepared folder."""
    funnel = fitted(user="user")
    funnel.save(tmp_path / "saved")
    run = Run(tmp_path / "saved")
    folder = Path(run.record["data"]["folder"])
    calibrate(run, PreparedData(folder))
    return funnel, run, folder


def test_predict_uses_the_calibration_of_a_run_unless_told_otherwise(tmp_path: Path) -> None:
    funnel, run, _ = saved(tmp_path)
    raw = funnel.predict(frame(50, seed=9))
    loaded = Funnel.load(run.folder)
    calibrated = loaded.predict(frame(50, seed=9))
    assert loaded.predict(frame(50, seed=9), calibrated=False).equals(raw) and not calibrated.equals(raw)
    assert Predictor(run).scores(frame(50, seed=9)).equals(calibrated)
    pq.write_table(frame(50, seed=9), tmp_path / "logs.parquet")
    for flag, expected in ((True, calibrated), (False, raw)):
        predict_file(run, tmp_path / "logs.parquet", tmp_path / "scored.parquet", calibrated=flag)
        scored = pq.read_table(tmp_path / "scored.parquet")
        assert scored.select(expected.column_names).equals(expected)
    product = calibrated["transition_click"].to_numpy() * calibrated["transition_buy"].to_numpy()
    np.testing.assert_allclose(calibrated["reach_buy"].to_numpy(), product, rtol=1e-5)
    loaded.save(tmp_path / "again")  # the calibration goes along
    assert Funnel.load(tmp_path / "again").predict(frame(50, seed=9)).equals(calibrated)


def test_a_missing_damaged_or_foreign_calibration_is_refused(run: Run, prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    with pytest.raises(ArtifactError, match="does not exist; fit a calibration by 'funnelcast calibrate'"):
        evaluate(run, data, calibrated=True)
    calibrate(run, data)
    other = fit(tmp_path / "other", data, ESMM, seed=1)
    path = other.folder / "calibration.json"
    path.write_bytes((run.folder / "calibration.json").read_bytes())
    with pytest.raises(ArtifactError, match="was fitted for other weights"):
        evaluate(other, data, calibrated=True)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ArtifactError, match="received damaged JSON"):
        evaluate(other, data, calibrated=True)


def test_a_graph_is_refused_before_anything_is_scored(
    run: Run, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FunnelGraph, "is_chain", property(lambda _: False))
    with pytest.raises(ConfigError, match="should form a chain to be calibrated, received a graph"):
        calibrate(run, PreparedData(prepared))
    assert not run.calibrated


def test_a_leaderboard_does_not_take_a_calibrated_report(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    board = compare([ESMM], prepared, tmp_path / "board", seeds=1)
    run = Run(tmp_path / "board" / "runs" / "esmm-seed0")
    calibrate(run, data)
    evaluate(run, data, calibrated=True)
    again = compare([ESMM], prepared, tmp_path / "board", seeds=1)
    steps = [b["rows"][0]["steps"] for b in (board, again)]
    assert [s["reach"]["pcoc"] for s in steps[0]] == [s["reach"]["pcoc"] for s in steps[1]]


def test_the_command(
    run: Run, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["funnelcast", *words])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    assert command("calibrate", str(run.folder), "--data", str(prepared), "--field", "page") == 0
    out = capsys.readouterr().out
    assert "joint on VALID; TEST before -> after" in out and "within the values of page" in out and " -> " in out
    assert command("evaluate", str(run.folder), "--data", str(prepared), "--calibrated") == 0
    assert json.loads((run.folder / "report.json").read_text())["calibration"] == "joint"
    capsys.readouterr()
    assert command("calibrate", str(run.folder), "--data", str(prepared), "--method", "plat") == 2
    assert "did you mean 'platt'" in capsys.readouterr().err


def test_pcoc_is_1_on_valid_and_the_order_stays(run: Run, prepared: Path) -> None:
    data = PreparedData(prepared)
    raw = score(run.load_model(), Loader(data, Split.VALID, 100))
    methods: tuple[Method, Method] = ("platt", "joint")
    for method in methods:
        calibrate(run, data, method=method)
        after = run.load_calibration().scores(raw)
        for step in range(2):
            rows = raw.observed[:, step]
            p, y = np.exp(after.log_reach[rows, step], dtype=np.float64), raw.labels[rows, step]
            assert metrics.pcoc(p, y) == pytest.approx(1.0, abs=1e-5)
            if method == "platt":
                order = np.argsort(raw.log_reach[rows, step])
                assert np.all(np.diff(after.log_reach[rows, step][order]) > -1e-6)  # 1e-6: rows of one score
