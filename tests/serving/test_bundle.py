"""What is read of a bundle: only what its maker wrote, and only if it gives the scores that were written down."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.bundles_on_disk import edit_json, sign, train_run

from funnelcast.calibrate import calibrate
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ArtifactError, ConfigError, DataError
from funnelcast.export import export_run
from funnelcast.serving import Bundle
from funnelcast.serving.golden import TOLERANCE
from funnelcast.serving.onnx_file import check_onnx_file

Change = Callable[[Path], object]
RAW: dict[str, list[Any]] = {
    "item": ["item 3", None, "new"],
    "tags": [["red"], [], ["grey", "red", "blue"]],
    "page": ["home", None, "x"],
}


@pytest.fixture
def bundle(make_prepared: Callable[[], Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle; exported once, each test changes a copy."""
    kept = tmp_path_factory.getbasetemp() / "calibrated-bundle"
    if not kept.exists():
        prepared = make_prepared()
        run = train_run(tmp_path / "run", prepared, hidden=[4])
        calibrate(run, PreparedData(prepared), method="joint")
        export_run(run, "onnx", kept)
    return shutil.copytree(kept, tmp_path / "bundle")


def edit_model(bundle: Path, change: Callable[[Any], object]) -> None:
    """Change the ONNX graph and sign it, as a careless or hostile maker would."""
    model = onnx.load(bundle / "model.onnx")
    change(model)
    onnx.save(model, bundle / "model.onnx")
    sign(bundle, "model.onnx")


def edit_weight(bundle: Path, change: Callable[[Any], object]) -> None:
    def first_table(model: Any) -> None:
        (table,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("table")]
        change(table)

    edit_model(bundle, first_table)


def edit_and_sign(bundle: Path, name: str, change: Callable[[Any], None]) -> None:
    edit_json(bundle / name, change)
    sign(bundle, name)


def refuse(bundle: Path, pattern: str) -> None:
    with pytest.raises(ArtifactError, match=pattern) as caught:
        Bundle.load(bundle)
    assert "\n" not in str(caught.value) and str(bundle) in str(caught.value)


def means_the_same(damaged: bytearray, original: bytes) -> bool:
    """Whether two texts are the same JSON: another kind of blank changes nothing."""
    try:
        return bool(json.loads(damaged) == json.loads(original))
    except ValueError:
        return False


def test_damage_of_any_file_is_found(bundle: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for path in sorted(bundle.iterdir()):
        original = path.read_bytes()
        for _ in range(20 if path.name == "manifest.json" else 4):
            damaged = bytearray(original)
            damaged[draw.integers(len(damaged))] ^= 1 << int(draw.integers(8))
            path.write_bytes(damaged)
            if path.name != "manifest.json":
                refuse(bundle, "has changed or is damaged: sha256 should be [0-9a-f]{64}, received [0-9a-f]{64}")
            elif not means_the_same(damaged, original):
                refuse(bundle, "damaged|format should be|key '.*' is missing")
        for share in (0.0, 0.5, 0.99):
            path.write_bytes(original[: int(share * len(original))])
            wanted = "should have|damaged" if path.name != "manifest.json" else "damaged|JSON"
            refuse(bundle, wanted)
        path.unlink()
        refuse(bundle, f"{path.name}: should be .* but does not exist")
        path.write_bytes(original)
    Bundle.load(bundle)


def test_a_copy_that_is_not_complete_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    refuse(half, "manifest.json: should be the manifest of a bundle, but does not exist")
    for path in sorted(bundle.iterdir(), reverse=True)[:-1]:
        shutil.copy(path, half)
    refuse(half, "does not exist")
    refuse(tmp_path / "nowhere", "does not exist")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda m: m.update(format=2), "manifest.json: format should be 1, received 2"),
        (lambda m: m.update(target="trees"), "unknown target 'trees'; known: onnx, torch"),
        (lambda m: m.pop("target"), "its key 'target' is missing"),
        (lambda m: m["files"].update({"../../etc/passwd": m["files"]["README.md"]}), "received '../../etc/passwd'"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["README.md"]}), "alone, received '/etc/passwd'"),
        (lambda m: m["files"].update({"model.pt2": m["files"]["README.md"]}), "alone, received 'model.pt2'"),
        (lambda m: m["files"].pop("golden.json"), "should list 'golden.json', received"),
        (lambda m: m["files"].update({"golden.json": 3}), "should list files with bytes and sha256"),
        (lambda m: m.update(files=[]), "should list files with bytes and sha256"),
        (lambda m: m["files"]["model.onnx"].update(bytes=7), r"model.onnx: should have 7 bytes, received [\d,]+"),
        (lambda m: m.update(run_sha256="0" * 64), "calibration.json: was fitted for other weights"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(bundle: Path, change: Callable[[Any], object], pattern: str) -> None:
    edit_json(bundle / "manifest.json", change)  # type: ignore[arg-type]
    if "target" in json.loads((bundle / "manifest.json").read_text()):
        sign(bundle)
    refuse(bundle, pattern)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "schema.json", "golden.json"])
def test_links_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.move(bundle / name, tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    refuse(bundle, f"{name}: should be .*, received a symbolic link")


def test_a_folder_in_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "schema.json").unlink()
    (bundle / "schema.json").mkdir()
    refuse(bundle, "schema.json: should be a file of the bundle, received no regular file")


def test_huge_files_are_refused_before_they_are_read(bundle: Path) -> None:
    with (bundle / "model.onnx").open("r+b") as file:
        file.truncate(3 << 30)  # a hole, which takes no room on the disk
    edit_json(bundle / "manifest.json", lambda m: m["files"]["model.onnx"].update(bytes=3 << 30))
    sign(bundle)
    refuse(bundle, "model.onnx: should have at most 2,147,483,648 bytes, received 3,221,225,472")
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(2 << 20)
    refuse(bundle, "manifest.json: should have at most 1,048,576 bytes")


def drop_output(model: Any) -> None:
    del model.graph.output[-1]


def rename_input(model: Any) -> None:
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = "rows" if name == "ids" else name
    model.graph.input[0].name = "rows"


def widen_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9


def fix_rows(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def unknown_operator(model: Any) -> None:
    model.graph.node[0].op_type = "Teleport"


def foreign_operator(model: Any) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def function(model: Any) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    made = helper.make_function("local", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 20)])
    model.functions.append(made)


def nested_graph(model: Any) -> None:
    inner = helper.make_graph([helper.make_node("Jump", [], ["z"], domain="evil")], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))


def sparse_weight(model: Any) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (drop_output, "should have the outputs raw_reach_click, .*, received raw_reach_click"),
        (rename_input, "should have the inputs ids, received rows"),
        (widen_input, "should be a model that ONNX Runtime takes|should be tensor.* received tensor.* 9"),
        (fix_rows, "should be a model that ONNX Runtime takes|should be tensor.*received tensor.*3, 5"),
        (unknown_operator, "should be a model that ONNX Runtime takes, received: .*Teleport"),
        (foreign_operator, "should have operators of ONNX alone, received '.*' of 'com.example'"),
        (function, "should have one graph and no functions"),
        (nested_graph, "should have operators of ONNX alone, received 'Jump' of 'evil'"),
        (sparse_weight, "should have dense weights, received a sparse one"),
    ],
)
def test_a_model_of_another_kind_is_refused(bundle: Path, change: Callable[[Any], object], pattern: str) -> None:
    edit_model(bundle, change)
    refuse(bundle, pattern)


def test_weights_that_are_no_numbers_are_refused(bundle: Path) -> None:
    def spoil(tensor: Any) -> None:
        values = numpy_helper.to_array(tensor).copy()
        values[7, 1] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    edit_weight(bundle, spoil)
    refuse(bundle, "weight 'model.embedding.table' should be a number everywhere, received NaN")


def test_weights_written_as_numbers_are_looked_at_too(bundle: Path) -> None:
    def spoil(tensor: Any) -> None:
        values = numpy_helper.to_array(tensor).flatten()
        values[-1] = np.nan
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values.tolist())

    edit_weight(bundle, spoil)
    refuse(bundle, "weight 'model.embedding.table' should be a number everywhere, received NaN")


def test_weights_in_other_files_are_refused(bundle: Path, tmp_path: Path) -> None:
    def refer(tensor: Any) -> None:
        (tmp_path / "secret").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret")

    edit_weight(bundle, refer)
    refuse(bundle, "weight 'model.embedding.table' should stand in the file, received a reference to another file")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format": ' + "9" * 5000 + "}", "[]", "\x00"])
def test_hostile_json_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    refuse(bundle, "manifest.json: should be the manifest of a bundle, received")


def test_graphs_in_graphs_have_a_bound(bundle: Path) -> None:
    def nest(model: Any) -> None:
        graph = helper.make_graph([], "inner", [], [])
        for _ in range(20):
            node = helper.make_node("If", ["c"], ["z"], then_branch=graph)
            graph = helper.make_graph([node], "inner", [], [])
        model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=graph))

    edit_model(bundle, nest)
    refuse(bundle, "should have graphs within graphs at most 8 deep")


@given(content=st.binary(max_size=200), place=st.integers(0, 400), prefix=st.binary(max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_or_passed_on(content: bytes, place: int, prefix: bytes) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    graph = helper.make_graph([helper.make_node("Relu", ["w"], ["y"])], "g", [], [], [tensor])
    whole = helper.make_model(graph).SerializeToString()
    for data in (content, whole[:place] + content + whole[place:], prefix + whole):
        with contextlib.suppress(ArtifactError):
            check_onnx_file(Path("model.onnx"), data)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\xff" * 64, b"not a model at all", b"\x3a\xff\xff\x03abc"])
def test_what_is_no_onnx_file_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "model.onnx").write_bytes(content)
    sign(bundle, "model.onnx")
    refuse(bundle, "model.onnx: should (be an ONNX file|have one graph)")


def shift(record: Any, name: str, row: int, amount: float) -> None:
    record[name][row][0] += amount


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda g: shift(g, "reach", 5, 1e-4), "row 5 should have the reach .* within 1e-05, received"),
        (lambda g: shift(g, "transition", 0, -1e-4), "row 0 should have the transition"),
        (lambda g: shift(g, "reach", 0, float("nan")), "row 0 should have the reach"),
        (lambda g: shift(g, "ids", 2, 1), "row 2 should have the ids"),
        (lambda g: g["rows"][4].update(item="item 1"), "row 4 should have the ids"),
        (lambda g: g["rows"][4].update(item=3), "golden.json: should be golden rows"),
        (lambda g: g["types"].update(item="list<item: int64>"), "golden.json: should"),
        (lambda g: g["types"].update(item="dictionary"), "received: ValueError.*dictionary"),
        (lambda g: g["types"].pop("item"), "golden.json: should hold raw rows of the encoders, received"),
        (lambda g: g.update(ids=[]), "golden.json: 'ids' should be"),
        (lambda g: g["reach"].pop(), "'reach' should be"),
        (lambda g: g.update(value=[1.0]), "should hold ids, reach, transition, received ids, reach, transition, value"),
        (lambda g: g.update(format=7), "golden.json: format should be 1, received 7"),
    ],
)
def test_golden_rows_must_be_reproduced(bundle: Path, change: Callable[[Any], object], pattern: str) -> None:
    edit_and_sign(bundle, "golden.json", change)  # type: ignore[arg-type]
    refuse(bundle, pattern)


def test_encoders_of_another_schema_are_refused(bundle: Path) -> None:
    edit_and_sign(bundle, "encoders.json", lambda e: e["encoders"][0]["values"].append("item 9"))
    refuse(bundle, "encoders.json: should make the fields item, tags, page of schema.json in their sizes")


def test_a_changed_calibration_is_refused(bundle: Path) -> None:
    edit_and_sign(bundle, "calibration.json", lambda c: c["steps"][0]["parameters"].update(slope=2.0))
    refuse(bundle, "calibration.json: has changed or is damaged")


def test_weights_without_bound_are_found_by_the_golden_rows(bundle: Path) -> None:
    def spoil(tensor: Any) -> None:
        values = numpy_helper.to_array(tensor).copy()
        values[0] = np.inf
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    edit_weight(bundle, spoil)
    refuse(bundle, "model.onnx: log-odds should be numbers, received NaN|row .* should have")


def test_scores_do_not_depend_on_the_batch(bundle: Path) -> None:
    opened = Bundle.load(bundle, threads=2)
    table = pa.table({name: values * 300 for name, values in RAW.items()})
    together = opened.score(table)
    assert together.reach.shape == together.transition.shape == (900, 2) and together.value is None
    assert together.reach.dtype == np.float32
    assert (np.diff(together.reach, axis=1) <= 0).all()
    for row in range(3):
        alone = opened.score(table.slice(row, 1))
        np.testing.assert_allclose(alone.reach[0], together.reach[row + 600], rtol=0, atol=1e-6)
    none = opened.score(table.slice(0, 0))
    assert none.reach.shape == none.transition.shape == (0, 2)


def test_wrong_rows_name_the_column(bundle: Path) -> None:
    opened = Bundle.load(bundle)
    with pytest.raises(DataError, match="rows should have the column 'page'; known: item, tags"):
        opened.score(pa.table({name: RAW[name] for name in ("item", "tags")}))
    with pytest.raises(DataError, match="column 'tags' should hold lists, received type"):
        opened.score(pa.table({**RAW, "tags": ["red", "red", "red"]}))


def test_the_version_follows_the_content(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    opened, copy = Bundle.load(bundle), Bundle.load(tmp_path / "copy")
    assert opened.version == copy.version and len(opened.version) == 12
    (tmp_path / "copy" / "README.md").write_text("another card")
    sign(tmp_path / "copy", "README.md")
    assert Bundle.load(tmp_path / "copy").version != opened.version


def test_verify_returns_the_largest_difference(bundle: Path) -> None:
    assert 0.0 <= Bundle.load(bundle).verify() < TOLERANCE


def test_a_missing_runtime_names_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs ONNX Runtime, .*pip install 'funnelcast\[export\]'"):
        Bundle.load(bundle)


def test_no_torch_is_loaded_to_score(bundle: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import pyarrow as pa
from funnelcast.serving import Bundle
scored = Bundle.load(Path({str(bundle)!r})).score(pa.table({RAW!r}))
assert scored.reach.shape == (3, 2)
heavy = {{"torch", "onnx", "duckdb", "sklearn", "matplotlib"}} & set(sys.modules)
print(*heavy)
sys.exit(len(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
