"""ONNX: a graph that ONNX Runtime, Triton and others run without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.export.program import quiet, to_program
from funnelcast.files import write_bytes
from funnelcast.layers import FunnelModel
from funnelcast.registry import EXPORTERS
from funnelcast.schema import Schema
from funnelcast.serving.contract import INPUT, output_shapes

if TYPE_CHECKING:
    from funnelcast.serving.scorer import Scorer

__all__ = ["Onnx", "to_onnx"]

OPSET = 20
_LARGEST_BYTES = 2**31 - 2**20  # what one file of Protocol Buffers can hold, less room for the graph


@EXPORTERS.register
class Onnx:
    """An ONNX file with the weights inside, of standard operators alone (opset 20)."""

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def write(self, model: FunnelModel, path: Path, *, calibrated: bool) -> None:
        """Write a model.

        Args:
            model: on the CPU.
            path: the file.
            calibrated: whether its scores will be calibrated.

        Raises:
            ArtifactError: the model cannot be exported.
            ConfigError: its weights are larger than an ONNX file.
        """
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        if size > _LARGEST_BYTES:
            raise ConfigError(f"an ONNX file holds weights of at most {_LARGEST_BYTES:,} bytes, received {size:,}")
        program = to_program(model, calibrated=calibrated, portable=True)
        write_bytes(path, to_onnx(program, model.schema, calibrated=calibrated))

    def open(self, path: Path, schema: Schema, *, calibrated: bool) -> Scorer:
        """Open what `write` wrote.

        Args:
            path: the file.
            schema: the funnel.
            calibrated: as it was written.
        """
        from funnelcast.serving.scorer import OnnxScorer

        return OnnxScorer(path, path.read_bytes(), schema, calibrated=calibrated)


def to_onnx(program: torch.export.ExportedProgram, schema: Schema, *, calibrated: bool) -> bytes:
    """Translate a traced model; the same model gives the same bytes.

    Args:
        program: of `to_program`.
        schema: the funnel.
        calibrated: as it was traced.

    Raises:
        ArtifactError: an operator has no translation.
    """
    names = list(output_shapes(schema, calibrated=calibrated))
    try:
        with quiet():
            translated = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=names, opset_version=OPSET, verbose=False
            )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ArtifactError(f"the model cannot be translated into ONNX: {reason}") from error
    assert translated is not None
    data: bytes = _plain(translated.model_proto).SerializeToString(deterministic=True)
    return data


def _plain(proto: Any) -> Any:
    """Name the number of rows, and drop the notes about our source files."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            part.ClearField("metadata_props")
    traced = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == traced:
                dimension.dim_param = "rows"
    return proto
