"""JSON schemas of what the service takes and says, for its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funnelcast.schema import score_columns
from funnelcast.serving.http.columns import RawColumn
from funnelcast.serving.http.open_inference import DATATYPES
from funnelcast.serving.http.variants import Variants

__all__ = ["schemas"]

_WHOLE = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_CATEGORY = {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1}
# Whole numbers of more than 64 bits are refused, which no schema of all numbers can say.
_NUMBER = {"type": "number", "description": "A whole number has at most 64 bits."}
_KINDS: Mapping[str, list[dict[str, Any]]] = {
    "whole": [_WHOLE],
    "number": [_NUMBER],
    "text": [{"type": "string"}, _CATEGORY, {"type": "boolean"}],
}
_TEXT, _NAMES = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_FLAG = {"type": "boolean"}
_NULL = {"type": "null"}
_DETAIL = {
    "code": _TEXT,
    "message": _TEXT,
    "row": {"type": ["integer", "null"]},
    "column": {"type": ["string", "null"]},
}


def schemas(variants: Variants) -> dict[str, Any]:
    """Describe bodies by name.

    Args:
        variants: the bundles, whose columns and steps the bodies have.
    """
    columns: dict[str, RawColumn] = {}
    outputs: dict[str, None] = {}
    for variant in variants.all.values():
        columns |= variant.columns
        outputs |= dict.fromkeys(score_columns(variant.bundle.schema))
    return {
        "Request": _request(columns),
        "Answer": _answer(),
        "Error": _object({"error": _object(_DETAIL), "request_id": _TEXT}),
        "Tensors": _tensors(columns, list(outputs)),
        "TensorAnswer": _tensor_answer(list(outputs)),
        "TensorError": _object({**_DETAIL, "error": _TEXT, "request_id": _TEXT}, "error", "request_id"),
        "Model": _model(),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _NAMES}),
        "Live": _object({"live": _FLAG}),
        "Ready": _object({"ready": _FLAG}),
        "ModelReady": _object({"name": _TEXT, "ready": _FLAG}),
    }


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """An object of these properties, all required unless some are named."""
    return {"type": "object", "required": list(required) or list(properties), "properties": dict(properties)}


def _column(column: RawColumn) -> dict[str, Any]:
    one = {"anyOf": [*_KINDS[column.kind], _NULL]}
    return {"type": ["array", "null"], "items": one} if column.several else one


def _request(columns: Mapping[str, RawColumn]) -> dict[str, Any]:
    cells = {name: _column(column) for name, column in columns.items()}
    candidate = {"type": "object", "properties": cells}
    lists = {name: {"type": "array", "items": cell, "minItems": 1} for name, cell in cells.items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "user": {"anyOf": [{"type": "string", "maxLength": 200}, {"type": "integer"}, _NULL]},
            "context": candidate,
            "candidates": {"type": "array", "items": candidate, "minItems": 1},
            "columns": {
                "type": "object",
                "properties": lists,
                "additionalProperties": {"type": "array", "minItems": 1},
                "minProperties": 1,
            },
        },
        "oneOf": [{"required": ["candidates"]}, {"required": ["columns"]}],
    }


def _answer() -> dict[str, Any]:
    numbers = {"type": "array", "items": {"type": "number"}}
    steps = {"type": "object", "additionalProperties": numbers}
    always = {
        "request_id": _TEXT,
        "variant": _TEXT,
        "model_version": _TEXT,
        "calibrated": _FLAG,
        "rows": {"type": "integer"},
        "steps": _NAMES,
        "reach": steps,
        "transition": steps,
    }
    return _object({**always, "value": numbers, "missing_columns": _NAMES, "unknown_columns": _NAMES}, *always)


def _tensors(columns: Mapping[str, RawColumn], outputs: list[str]) -> dict[str, Any]:
    parameters = {"type": "object"}
    inputs = [
        _object(
            {
                "name": {"const": name},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
                "datatype": {"enum": list(DATATYPES[column.kind])},
                "data": {"type": "array"},
                "parameters": parameters,
            },
            *("name", "shape", "datatype", "data"),
        )
        for name, column in columns.items()
    ]
    wanted = _object({"name": {"enum": outputs}, "parameters": parameters}, "name")
    return _object(
        {
            "id": _TEXT,
            "inputs": {"type": "array", "items": {"anyOf": inputs}, "minItems": 1},
            "outputs": {"type": "array", "items": wanted},
            "parameters": parameters,
        },
        "inputs",
    )


def _tensor_answer(outputs: list[str]) -> dict[str, Any]:
    output = {
        "name": {"enum": outputs},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"const": "FP32"},
        "data": {"type": "array", "items": {"type": "number"}},
    }
    tensors = {"type": "array", "items": _object(output)}
    return _object({"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "outputs": tensors})


def _model() -> dict[str, Any]:
    shape = {"type": "array", "items": {"type": "integer"}}
    tensors = {"type": "array", "items": _object({"name": _TEXT, "datatype": _TEXT, "shape": shape})}
    return _object({"name": _TEXT, "versions": _NAMES, "platform": _TEXT, "inputs": tensors, "outputs": tensors})
