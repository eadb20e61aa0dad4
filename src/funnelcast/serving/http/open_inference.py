"""The Open Inference Protocol V2: raw columns as named tensors in, probabilities as named tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from funnelcast import __version__
from funnelcast.arrow import pa
from funnelcast.schema import score_columns
from funnelcast.serving.http.columns import RawColumn
from funnelcast.serving.http.decode import decode_json
from funnelcast.serving.http.refusal import RefusalError, excerpt, quoted
from funnelcast.serving.http.rows import RawRows, listed, takes_lists
from funnelcast.serving.http.variants import Variant
from funnelcast.serving.scorer import Scored

__all__ = [
    "DATATYPES",
    "InferRequest",
    "infer_answer",
    "infer_rows",
    "model_metadata",
    "parse_infer",
    "server_metadata",
]

_WHOLE = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
DATATYPES = {"whole": _WHOLE, "number": ("FP64", "FP32", *_WHOLE), "text": ("BYTES", "BOOL", *_WHOLE)}
_USUAL = {"whole": "INT64", "number": "FP64", "text": "BYTES"}


class Tensor(msgspec.Struct):
    """A named input. `data` is flat or nested, row by row; null is a missing value."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class Wanted(msgspec.Struct):
    """A named output that the client wants."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """What a request says."""

    inputs: list[Tensor]
    id: str = ""
    outputs: list[Wanted] = []
    parameters: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(InferRequest)


def server_metadata() -> dict[str, Any]:
    """Say which server this is."""
    return {"name": "funnelcast", "version": __version__, "extensions": []}


def model_metadata(variant: Variant) -> dict[str, Any]:
    """Say what a model takes and gives.

    Args:
        variant: the model.
    """
    inputs = [
        {"name": column.name, "datatype": _USUAL[column.kind], "shape": [-1, -1] if column.several else [-1]}
        for column in variant.columns.values()
    ]
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in score_columns(variant.bundle.schema)]
    return {
        "name": variant.name,
        "versions": [variant.version],
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": outputs,
    }


def parse_infer(body: bytes) -> InferRequest:
    """Decode a request.

    Args:
        body: JSON.

    Raises:
        RefusalError: it is no such JSON.
    """
    return decode_json(_DECODER, body)


def infer_rows(request: InferRequest, columns: Mapping[str, RawColumn], largest: int) -> RawRows:
    """Lay tensors out as raw columns.

    Args:
        request: has one tensor for every column.
        columns: of the bundle.
        largest: number of rows.

    Raises:
        RefusalError: a tensor is missing, unknown, there twice, or its type, shape or data do not fit.
    """
    given: dict[str, Tensor] = {}
    for tensor in request.inputs:
        if tensor.name not in columns or tensor.name in given:
            again = tensor.name in given
            wanted = "should stand once, received it again" if again else f"is unknown; known: {listed(columns)}"
            code = "duplicate_column" if again else "unknown_column"
            raise RefusalError(400, code, f"the input {quoted(tensor.name)} {wanted}", column=tensor.name)
        given[tensor.name] = tensor
    if left := [name for name in columns if name not in given]:
        raise RefusalError(400, "missing_column", f"the inputs should have '{left[0]}', received none", column=left[0])
    rows = None
    given_values = {}
    for name, column in columns.items():
        values = _values(given[name], column, largest)
        rows = len(values) if rows is None else rows
        if len(values) != rows:
            message = f"the input '{name}' should have {rows:,} rows like the ones before, received {len(values):,}"
            raise RefusalError(400, "ragged_columns", message, row=min(rows, len(values)), column=name)
        given_values[name] = values
    if takes_lists(rows or 0):
        return RawRows(columns, {name: column.cells(given_values[name]) for name, column in columns.items()}, [], [])
    arrays = {name: column.array(given_values[name]) for name, column in columns.items()}
    return RawRows(columns, pa.table(arrays), [], [])


def _values(tensor: Tensor, column: RawColumn, largest: int) -> Sequence[Any]:
    """Bring a tensor's data to a value, or a list, a row."""
    name, shape = column.name, tensor.shape
    if tensor.datatype not in DATATYPES[column.kind]:
        wanted = f"the datatype of the input '{name}' should be one of {', '.join(DATATYPES[column.kind])}"
        raise RefusalError(400, "wrong_type", f"{wanted}, received {excerpt(tensor.datatype)}", column=name)
    fits = len(shape) == 2 if column.several else len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not fits or min(shape) < 0 or max(shape) >= 2**63:
        wanted = "[rows, values]" if column.several else "[rows] or [rows, 1]"
        message = f"the shape of the input '{name}' should be {wanted}, received {excerpt(str(shape))}"
        raise RefusalError(400, "wrong_shape", message, column=name)
    rows, width = shape[0], shape[1] if len(shape) == 2 else 1
    if not 1 <= rows <= largest:
        status, code = (400, "no_rows") if rows == 0 else (413, "too_many_rows")
        raise RefusalError(
            status, code, f"the input '{name}' should have 1 to {largest:,} rows, received {rows:,}", column=name
        )
    flat = tensor.data
    if len(flat) == rows and len(shape) == 2 and all(isinstance(row, list) and len(row) == width for row in flat):
        flat = [value for row in flat for value in row]
    if len(flat) != rows * width:
        message = f"the data of the input '{name}' should be {rows * width:,} values, received {len(flat):,}"
        raise RefusalError(400, "wrong_shape", message, row=len(flat) // max(1, width), column=name)
    if not column.several:
        return flat
    return [[value for value in flat[row * width : (row + 1) * width] if value is not None] for row in range(rows)]


def infer_answer(request: InferRequest, variant: Variant, scored: Scored, request_id: str) -> dict[str, Any]:
    """Write scores as tensors.

    Args:
        request: names the outputs that are wanted; none names all.
        variant: what scored.
        scored: of the rows.
        request_id: of the answer, where the request has no id.

    Raises:
        RefusalError: an output is unknown, or named twice.
    """
    names = score_columns(variant.bundle.schema)
    pairs = np.stack([scored.reach, scored.transition], 2).reshape(len(scored.reach), -1)  # [B, 2 S]
    found = dict(zip(names, [*pairs.T, *([] if scored.value is None else [scored.value])], strict=True))
    outputs: list[dict[str, Any]] = []
    for name in [wanted.name for wanted in request.outputs] or names:
        if any(output["name"] == name for output in outputs):  # else a short request gets any number of scores
            message = f"the output '{name}' should stand once, received it again"
            raise RefusalError(400, "duplicate_output", message, column=name)
        if name not in found:
            message = f"the output {quoted(name)} is unknown; known: {', '.join(names)}"
            raise RefusalError(400, "unknown_output", message, column=name)
        data = found[name].tolist()
        outputs.append({"name": name, "shape": [len(data)], "datatype": "FP32", "data": data})
    return {
        "model_name": variant.name,
        "model_version": variant.version,
        "id": request.id or request_id,
        "outputs": outputs,
    }
