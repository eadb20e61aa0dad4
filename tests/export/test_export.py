"""A run -> a bundle: what is in it, that its scores are those of `predict`, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.bundles_on_disk import edit_json, train_run
from tests.shop_on_disk import prepare_shop

from funnelcast.calibrate import calibrate
from funnelcast.data.encode import Encoders
from funnelcast.data.ids import Ids
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ArtifactError, ConfigError, UnknownNameError
from funnelcast.export import export_run
from funnelcast.export.golden import golden_rows
from funnelcast.export.program import to_program
from funnelcast.files import sha256
from funnelcast.predict import Predictor
from funnelcast.run import Run
from funnelcast.schema import Schema
from funnelcast.serving import Bundle
from funnelcast.serving.golden import Golden
from funnelcast.serving.scorer import Scored

RAW = {
    "item": ["item 3", None, "never seen", "item 0", "x" * 5000],
    "tags": [["red"], [], None, ["grey", "mauve", "red", "blue", "green"], [None, "blue"]],
    "page": ["home", "search", None, "", "home"],
}


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Run:
    return train_run(tmp_path / "run", prepared, hidden=[4])


def nothing(ids: Ids) -> Scored:
    """Scores of one step that depend on nothing."""
    return Scored(np.zeros((len(ids), 1), np.float32), np.zeros((len(ids), 1), np.float32), None)


def columns(scored: Scored) -> list[Any]:
    """Scores in the order of `predict`'s columns."""
    parts = [column for pair in zip(scored.reach.T, scored.transition.T, strict=True) for column in pair]
    return parts if scored.value is None else [*parts, scored.value]


def check_like_predict(run: Run, bundle: Path, raw: dict[str, Any], *, calibrated: bool = True) -> None:
    expected = Predictor(run, calibrated=calibrated).scores(pa.table(raw))
    found = columns(Bundle.load(bundle).score(pa.table(raw)))
    for name, column in zip(expected.column_names, found, strict=True):
        np.testing.assert_allclose(column, expected[name].to_numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_bundle_holds_what_its_manifest_says(run: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "new" / "bundle"
    assert export_run(run, "onnx", bundle) < 1e-5
    manifest = json.loads((bundle / "manifest.json").read_text())
    names = {"README.md", "encoders.json", "golden.json", "model.onnx", "schema.json"}
    assert manifest["format"] == 1 and manifest["target"] == "onnx" and manifest["name"] == "esmm"
    assert manifest["run_sha256"] == sha256(run.folder / "weights.safetensors")
    assert set(manifest["files"]) == names and {p.name for p in bundle.iterdir()} == names | {"manifest.json"}
    for name, file in manifest["files"].items():
        assert file == {"bytes": (bundle / name).stat().st_size, "sha256": sha256(bundle / name)}
    card = (bundle / "README.md").read_text()
    assert "`reach_buy`: float32 [rows]" in card and "Not evaluated." in card and "not calibrated" in card
    assert str(tmp_path) not in "".join(path.read_bytes().decode("latin-1") for path in bundle.iterdir())
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]  # nothing temporary stays


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_the_same_run_gives_the_same_bytes(run: Run, tmp_path: Path, target: str) -> None:
    for name in "ab":
        export_run(run, target, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("method", [None, "joint", "temperature", "isotonic"])
def test_scores_are_those_of_predict(run: Run, prepared: Path, tmp_path: Path, method: Any) -> None:
    if method is not None:
        calibrate(run, PreparedData(prepared), method=method)
    export_run(run, "onnx", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "calibration.json").exists() == (method is not None)
    check_like_predict(run, tmp_path / "bundle", RAW)


def test_raw_leaves_the_calibration_out(run: Run, prepared: Path, tmp_path: Path) -> None:
    calibrate(run, PreparedData(prepared), method="joint")
    export_run(run, "onnx", tmp_path / "bundle", calibrated=False)
    check_like_predict(run, tmp_path / "bundle", RAW, calibrated=False)
    different = np.abs(Predictor(run).scores(pa.table(RAW))["reach_buy"].to_numpy())
    raw = Predictor(run, calibrated=False).scores(pa.table(RAW))["reach_buy"].to_numpy()
    assert np.abs(different - raw).max() > 1e-4


def test_sampled_negatives_are_corrected(prepared: Path, tmp_path: Path) -> None:
    run = train_run(tmp_path / "run", prepared, negatives=0.1, hidden=[4])
    export_run(run, "onnx", tmp_path / "bundle")
    check_like_predict(run, tmp_path / "bundle", RAW)
    mean = Bundle.load(tmp_path / "bundle").score(pa.table(RAW)).reach[:, 0].mean()
    assert 0.2 < mean < 0.8  # half of the rows click; among the rows kept 91 % do


@pytest.mark.parametrize("method", [None, "joint"])
def test_a_value_step_has_an_expected_value(tmp_path: Path, method: Any) -> None:
    draw = np.random.default_rng(0)
    item = draw.integers(0, 6, 600)
    click = draw.random(600) < 0.2 + 0.1 * item
    spend = np.where(click & (draw.random(600) < 0.6), draw.gamma(2.0, 5.0 * (1 + item)), 0.0)
    rows = {"item": item, "click": click, "spend": spend, "part": ["train", "valid", "test"] * 200}
    steps = [{"name": "click"}, {"name": "spend", "kind": "value"}]
    prepared = prepare_shop(tmp_path, steps, rows)
    run = train_run(tmp_path / "run", prepared, hidden=[4])
    if method is not None:
        calibrate(run, PreparedData(prepared), method=method)
    export_run(run, "onnx", tmp_path / "bundle")
    check_like_predict(run, tmp_path / "bundle", {"item": [0, 5, None, 77, 2**62]})


def test_golden_rows_hold_nulls_unknown_and_extreme_values(run: Run) -> None:
    encoders = Encoders.load(run.folder / "encoders.json")
    schema = run.schema
    golden = golden_rows(encoders, schema, nothing)
    assert golden.ids[0].tolist() == [0] * schema.width
    assert golden.ids[1].tolist() == [1, 1, 0, 0, 1]
    assert golden.raw.num_rows == 16 and len(golden.ids) == 30
    largest = [field.size - 1 for field in schema.fields for _ in range(field.max_length)]
    assert largest in golden.ids.tolist() and (golden.ids <= largest).all() and golden.ids.min() == 0
    assert len(np.unique(golden.ids, axis=0)) > 20


def test_golden_rows_suit_every_kind_of_encoder(tmp_path: Path) -> None:
    rows = {
        "item": [*range(50), None] * 6,
        "price": [float(number) ** 3 - 500.0 for number in range(306)],
        "age": [number % 90 for number in range(306)],
        "words": [f"a b{number % 7}" for number in range(306)],
        "day": [bool(number % 2) for number in range(306)],
        "click": [number % 5 == 0 for number in range(306)],
        "part": ["train", "valid", "test"] * 102,
    }
    features = [
        {"name": "item"},
        {"name": "price", "kind": "numeric"},
        {"name": "age", "kind": "numeric", "encoder": "quantile", "buckets": 5},
        {"name": "words", "kind": "multi", "separator": " ", "max_length": 2},
        {"name": "hashed", "column": "day", "encoder": "hash", "buckets": 7},
        {"name": "bucket", "column": "item", "kind": "numeric"},
    ]
    statistics = [{"columns": ["day"]}, {"columns": ["item", "age"]}]
    prepare_shop(tmp_path, [{"name": "click"}], rows, features=features, target_statistics=statistics)
    encoders, schema = Encoders.load(tmp_path / "out" / "encoders.json"), Schema.load(tmp_path / "out" / "schema.json")
    golden = golden_rows(encoders, schema, nothing)
    assert golden.raw["words"].to_pylist()[2].count(" ") == 2  # one more than is kept
    assert golden.ids[:4, 0].tolist() == [0, 1, 1, 1]  # null, unknown, and no whole number of either end is an item
    assert golden.ids[1:4, 2].tolist() == [2, 6, 2]  # quantiles take any number
    assert len({*golden.ids[4:16, 2].tolist()}) > 1 and len({*golden.ids[4:16, 1].tolist()}) > 5
    golden.write(tmp_path / "golden.json")
    read = Golden.read(tmp_path / "golden.json", schema)
    assert read.raw.equals(golden.raw) and read.check(tmp_path, encoders, schema, nothing) == 0.0


def test_the_command_says_what_it_did(run: Run, tmp_path: Path, command: Any) -> None:
    code, out, _ = command("export", str(run.folder), str(tmp_path / "bundle"))
    assert code == 0 and out.startswith(f"bundle in {tmp_path / 'bundle'}: golden rows within ")


def test_torch_program_scores_the_same(run: Run, prepared: Path, tmp_path: Path) -> None:
    calibrate(run, PreparedData(prepared), method="joint")
    assert export_run(run, "torch", tmp_path / "bundle") < 1e-6
    program = torch.export.load(tmp_path / "bundle" / "model.pt2").module()
    ids = torch.tensor([[2, 1, 0, 0, 1]] * 5, dtype=torch.int32)
    names = json.loads((tmp_path / "bundle" / "golden.json").read_text()).keys()
    assert "reach" in names
    with torch.inference_mode():
        found, expected = program(ids), run.load_model()(ids)
    torch.testing.assert_close(found[2], expected.reach[:, 1], rtol=1e-6, atol=1e-7)
    with pytest.raises(ArtifactError, match="should be a bundle of the target 'onnx', received 'torch'"):
        Bundle.load(tmp_path / "bundle")


def test_programs_run_where_there_are_no_operators_of_ours(prepared: Path, tmp_path: Path) -> None:
    """APEM's layers have compiled operators here; a file that needs them would be of no use elsewhere."""
    run = train_run(tmp_path / "run", prepared, "apem", layers=2, inducing_points=3, width=4)
    for target in ("onnx", "torch"):
        assert export_run(run, target, tmp_path / target) < 1e-5
    program = torch.export.load(tmp_path / "torch" / "model.pt2")
    assert not [node for node in program.graph.nodes if "funnelcast" in str(node.target)]
    check_like_predict(run, tmp_path / "onnx", RAW)


def test_an_unfinished_run_is_refused(run: Run, tmp_path: Path) -> None:
    (run.folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="training is not complete"):
        export_run(run, "onnx", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_holds_files_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name in ("full", "link", "full/note"):
        with pytest.raises(ConfigError, match="should be a new or empty folder, but holds something"):
            export_run(run, "onnx", tmp_path / name)
    (tmp_path / "empty").mkdir()
    export_run(run, "onnx", tmp_path / "empty")


def test_an_unknown_target_lists_the_known_ones(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown export target 'onxx'; did you mean 'onnx'\? known"):
        export_run(run, "onxx", tmp_path / "bundle")


def test_trees_are_refused_with_the_reason(prepared: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    run = train_run_of_trees(tmp_path / "run", prepared)
    with pytest.raises(ConfigError, match="should be a run of a neural model, received 'lightgbm', whose trees"):
        export_run(run, "onnx", tmp_path / "bundle")


def train_run_of_trees(folder: Path, prepared: Path) -> Run:
    from funnelcast.config import Component, Experiment
    from funnelcast.train import fit

    experiment = Experiment(name="trees", model=Component(name="lightgbm", options={"rounds": 2}))
    return fit(folder, PreparedData(prepared), experiment)


def test_a_weight_that_is_no_number_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = run.load_model()
    with torch.no_grad():
        next(model.parameters())[3, 0] = torch.nan
    monkeypatch.setattr(Run, "load_model", lambda _: model)
    with pytest.raises(ArtifactError, match=r"weight 'embedding.table' should be finite, received NaN"):
        export_run(run, "onnx", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists() and not list(tmp_path.glob(".bundle*"))


def test_a_model_that_scores_otherwise_is_no_bundle(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def falsified(model: Any, **options: Any) -> Any:
        with torch.no_grad():
            next(reversed([*model.parameters()])).add_(0.01)
        return to_program(model, **options)

    monkeypatch.setattr("funnelcast.export.onnx.to_program", falsified)
    with pytest.raises(ArtifactError, match=r"golden.json: row 0 should have the reach .* within 1e-05, received"):
        export_run(run, "onnx", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_missing_package_names_the_extra(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else honest(name))
    with pytest.raises(
        ConfigError, match=r"needs onnxscript, not installed here; .*pip install 'funnelcast\[export\]'"
    ):
        export_run(run, "onnx", tmp_path / "bundle")


def test_the_card_tells_scores_and_negatives(prepared: Path, tmp_path: Path) -> None:
    from funnelcast.evaluate import evaluate

    run = train_run(tmp_path / "run", prepared, negatives=0.5, hidden=[4])
    report = evaluate(run, PreparedData(prepared))
    export_run(run, "onnx", tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"| click | reach | {report['steps'][0]['reach']['auc']:.4f} |" in card
    assert "Trained on 50.00% of the negatives" in card and "hidden = [4]" in card
    assert "before its calibration" not in card
    calibrate(run, PreparedData(prepared), method="joint")
    export_run(run, "onnx", tmp_path / "calibrated")
    assert "Of the model before its calibration" in (tmp_path / "calibrated" / "README.md").read_text()


def test_a_damaged_run_is_refused(run: Run, tmp_path: Path) -> None:
    edit_json(run.folder / "schema.json", lambda schema: schema.update(dataset="other"))
    with pytest.raises(ArtifactError, match=r"schema.json: has changed or is damaged"):
        export_run(run, "onnx", tmp_path / "bundle")


def test_predict_reads_and_bundle_reads_the_same_file(run: Run, tmp_path: Path) -> None:
    """A bundle scores Parquet as it lies there: other columns, any order."""
    pq.write_table(pa.table({"other": [1] * 5, **dict(reversed(RAW.items()))}), tmp_path / "rows.parquet")
    export_run(run, "onnx", tmp_path / "bundle")
    scored = Bundle.load(tmp_path / "bundle").score(pq.read_table(tmp_path / "rows.parquet"))
    np.testing.assert_array_equal(scored.reach, Bundle.load(tmp_path / "bundle").score(pa.table(RAW)).reach)
