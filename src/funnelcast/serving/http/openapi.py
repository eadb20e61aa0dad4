"""What clients can read about the service: an OpenAPI document, and one page without scripts or a network."""

from __future__ import annotations

import html
import json
from typing import Any

from funnelcast import __version__
from funnelcast.serving.http.columns import RawColumn
from funnelcast.serving.http.variants import Variant, Variants

__all__ = ["docs_page", "example_body", "openapi"]

_TYPES = {"whole": ["integer", "null"], "number": ["number", "null"], "text": ["string", "integer", "boolean", "null"]}
_STYLE = "body{font:16px system-ui;max-width:50em;margin:2em auto}td{padding:.2em .8em .2em 0}pre{overflow:auto}"
_ERRORS = {
    "400": "A wrong request; the message names row and column.",
    "401": "No key, or none that is known.",
    "408": "The body came too slowly.",
    "413": "Too many bytes or rows.",
    "415": "No JSON, or packed.",
    "429": "Overloaded; see Retry-After.",
    "503": "Not ready.",
    "504": "The deadline came first.",
}


def openapi(variants: Variants) -> dict[str, Any]:
    """Describe the routes in OpenAPI 3.1.

    Args:
        variants: the bundles, whose columns the request has.
    """
    columns: dict[str, Any] = {}
    for variant in variants.all.values():
        columns |= {name: _column(column) for name, column in variant.columns.items()}
    candidate = {"type": "object", "properties": columns}
    lists = {name: {"type": "array", "items": column} for name, column in columns.items()}
    body = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "user": {"type": ["string", "integer", "null"]},
            "context": candidate,
            "candidates": {"type": "array", "items": candidate, "minItems": 1},
            "columns": {"type": "object", "properties": lists},
        },
        "oneOf": [{"required": ["candidates"]}, {"required": ["columns"]}],
    }
    schemas = {"Request": body, "Answer": _answer(), "Error": _error()}
    paths = {
        "/v1/score": {"post": _score()},
        "/v2/models/{name}/infer": {"post": _get("Score named tensors (Open Inference Protocol V2).", "name")},
        "/v2/models/{name}": {"get": _get("Inputs and outputs of a model.", "name")},
        "/v2/models/{name}/ready": {"get": _get("Whether a model is ready.", "name")},
        "/v2": {"get": _get("Name and version of the server.")},
        "/v2/health/live": {"get": _get("Whether the process runs.")},
        "/v2/health/ready": {"get": _get("Whether requests are answered.")},
        "/livez": {"get": _get("Whether the process runs.")},
        "/readyz": {"get": _get("Whether golden rows were reproduced and requests are answered.")},
        "/metrics": {"get": _get("Metrics for Prometheus.")},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "funnelcast", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _column(column: RawColumn) -> dict[str, Any]:
    one = {"type": _TYPES[column.kind]}
    return {"type": ["array", "null"], "items": one} if column.several else one


def _answer() -> dict[str, Any]:
    numbers = {"type": "array", "items": {"type": "number"}}
    steps = {"type": "object", "additionalProperties": numbers}
    text = {"type": "string"}
    names = {"type": "array", "items": text}
    return {
        "type": "object",
        "required": ["request_id", "variant", "model_version", "calibrated", "rows", "steps", "reach", "transition"],
        "properties": {
            "request_id": text,
            "variant": text,
            "model_version": text,
            "calibrated": {"type": "boolean"},
            "rows": {"type": "integer"},
            "steps": names,
            "reach": steps,
            "transition": steps,
            "value": numbers,
            "missing_columns": names,
            "unknown_columns": names,
        },
    }


def _error() -> dict[str, Any]:
    detail = {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "row": {"type": ["integer", "null"]},
        "column": {"type": ["string", "null"]},
    }
    return {
        "type": "object",
        "properties": {"error": {"type": "object", "properties": detail}, "request_id": {"type": "string"}},
    }


def _score() -> dict[str, Any]:
    def reads(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    refused = {status: {"description": text, "content": reads("Error")} for status, text in _ERRORS.items()}
    return {
        "summary": "Score the candidates of one user.",
        "parameters": [{"name": "strict", "in": "query", "schema": {"type": "boolean"}}],
        "requestBody": {"required": True, "content": reads("Request")},
        "responses": {"200": {"description": "Scores.", "content": reads("Answer")}, **refused},
    }


def _get(summary: str, *path: str) -> dict[str, Any]:
    given = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    return {"summary": summary, "parameters": given, "responses": {"200": {"description": summary}}}


def example_body(variant: Variant) -> dict[str, Any]:
    """Make a request that works, of golden rows.

    Args:
        variant: the bundle.
    """
    return {"candidates": variant.bundle.golden.raw.slice(4, 2).to_pylist()}


def docs_page(variants: Variants) -> str:
    """Write the page: routes, columns, and a request to copy.

    Args:
        variants: the bundles.
    """
    routes = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(told['summary'])}</td></tr>"
        for path, methods in openapi(variants)["paths"].items()
        for method, told in methods.items()
    )
    first = next(iter(variants.all.values()))
    columns = "".join(
        f"<tr><td><code>{html.escape(column.name)}</code></td><td>{column.words}</td></tr>"
        for column in first.columns.values()
    )
    body = html.escape(json.dumps(example_body(first), indent=2, ensure_ascii=False))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>funnelcast</title><style>{_STYLE}</style>'
        f"<h1>funnelcast {html.escape(__version__)}</h1><table>{routes}</table>"
        f"<h2>Columns of {html.escape(first.name)}</h2><table>{columns}</table>"
        f"<h2>A request</h2><pre>POST /v1/score\ncontent-type: application/json\n\n{body}</pre>"
        '<p>Machines read <a href="/openapi.json">openapi.json</a>.</p></html>'
    )
