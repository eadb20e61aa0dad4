"""What a look into an ONNX file refuses: models of another kind, and hostile ones."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from tests.bundles_on_disk import edit_model, edit_weight, refuse, sign, spoil_weight, unknown_operator

from funnelcast.errors import ArtifactError
from funnelcast.serving.onnx_file import check_onnx_file


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


def training(model: Any) -> None:
    model.training_info.add().initialization.CopyFrom(helper.make_graph([], "first", [], []))


def constant(model: Any, **attributes: Any) -> Any:
    """Add a constant that nothing reads, and return it."""
    node = helper.make_node("Constant", [], ["unread"], **attributes)
    model.graph.node.append(node)
    return model.graph.node[-1]


def sparse_constant(model: Any, *, value: float = 1.0, many: bool = False) -> Any:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [value])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [4])
    attribute = constant(model, **{"sparse_values" if many else "sparse_value": [sparse] if many else sparse}).attribute
    return attribute[0].sparse_tensors[0] if many else attribute[0].sparse_tensor


def sparse_secret(model: Any) -> None:
    values = sparse_constant(model).values
    values.ClearField("float_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="secret.bin")


def number(data_type: int) -> Any:
    return helper.make_tensor("w", data_type, [1], [np.nan])


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
        (sparse_secret, "should have dense weights, received a sparse one in 'sparse_value' of 'Constant'"),
        (lambda m: sparse_constant(m, value=np.nan), "should have dense weights, received a sparse one in"),
        (lambda m: sparse_constant(m, many=True), "received a sparse one in 'sparse_values' of 'Constant'"),
        (training, "should have no graphs of training, received one"),
        (lambda m: constant(m, value_float=np.nan), "'value_float' of 'Constant' should be a number everywhere"),
        (lambda m: constant(m, value_floats=[1.0, np.nan]), "'value_floats' of 'Constant' should be a number"),
        (lambda m: constant(m, value=number(TensorProto.BFLOAT16)), r"weight 'w' should have one data type.* \[16\]"),
        (lambda m: constant(m, value=number(TensorProto.COMPLEX64)), r"weight 'w' should have one data type.* \[14\]"),
        (lambda m: constant(m, value=number(TensorProto.FLOAT16)), "weight 'w' should have floats of 16 bits as bytes"),
    ],
)
def test_a_model_of_another_kind_is_refused(bundle: Path, change: Callable[[Any], object], pattern: str) -> None:
    edit_model(bundle, change)
    refuse(bundle, pattern)


def test_weights_that_are_no_numbers_are_refused(bundle: Path) -> None:
    edit_weight(bundle, spoil_weight)
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


def test_no_other_file_comes_out_in_the_scores(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there, in the working directory, and a runtime would read it."""
    (tmp_path / "secret.bin").write_bytes(np.array([42.0], np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    edit_model(bundle, sparse_secret)
    refuse(bundle, "should have dense weights, received a sparse one")


def field(number: int, content: bytes) -> bytes:
    """Write a field of Protocol Buffers that holds a message."""
    whole = b""
    for value in (number << 3 | 2, len(content)):
        while value > 127:
            whole += bytes([value & 127 | 128])
            value >>= 7
        whole += bytes([value])
    return whole + content


def model_of(attribute: bytes) -> bytes:
    """Write a model of one operator with one attribute, whose bytes no library would write."""
    node = helper.make_node("Constant", [], ["y"]).SerializeToString() + field(5, attribute)
    return field(7, field(1, node))


def test_a_weight_in_several_parts_is_refused() -> None:
    # A parser joins them: the bytes of the first in the type of the second are NaN.
    first = TensorProto(data_type=TensorProto.INT32, dims=[1], raw_data=b"\xff" * 4).SerializeToString()
    second = TensorProto(data_type=TensorProto.FLOAT).SerializeToString()
    attribute = AttributeProto(name="value", type=AttributeProto.TENSOR).SerializeToString()
    data = model_of(attribute + field(5, first) + field(5, second))
    joined = onnx.load_model_from_string(data).graph.node[0].attribute[0].t
    assert np.isnan(numpy_helper.to_array(joined)).all()
    with pytest.raises(ArtifactError, match="'value' of 'Constant' should be one tensor or graph, received several"):
        check_onnx_file(Path("model.onnx"), data)
    with pytest.raises(
        ArtifactError, match=r"weight '' should have one data type: .* received the data types \[6, 1\]"
    ):
        check_onnx_file(Path("model.onnx"), model_of(attribute + field(5, first + second)))


def test_a_field_whose_number_is_cut_by_others_is_refused() -> None:
    whole = model_of(AttributeProto(name="value").SerializeToString() + field(22 + (1 << 29), b""))
    with pytest.raises(ArtifactError, match="should be an ONNX file, received damaged content: a field of the number"):
        check_onnx_file(Path("model.onnx"), whole)


def test_a_model_in_the_format_of_onnx_runtime_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes say what they are at a place where an ONNX file may have anything, so one file can be both."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    shutil.copy(tmp_path / "model.ort", bundle / "model.onnx")
    sign(bundle, "model.onnx")
    refuse(bundle, "model.onnx: should be an ONNX file|model.onnx: should have one graph")
    monkeypatch.setattr("funnelcast.serving.scorer.check_onnx_file", lambda path, data: None)
    refuse(bundle, "model.onnx: should be a model that ONNX Runtime takes, received")


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


def test_weights_without_bound_are_found_by_the_golden_rows(bundle: Path) -> None:
    def spoil(tensor: Any) -> None:
        values = numpy_helper.to_array(tensor).copy()
        values[0] = np.inf
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    edit_weight(bundle, spoil)
    refuse(bundle, "model.onnx: log-odds should be numbers, received NaN|row .* should have")
