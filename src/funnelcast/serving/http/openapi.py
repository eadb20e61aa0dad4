"""What clients can read about the service: an OpenAPI document, and one page without scripts or a network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from funnelcast import __version__
from funnelcast.serving.http.openapi_admin import admin_paths, admin_schemas, page_path
from funnelcast.serving.http.openapi_schemas import schemas
from funnelcast.serving.http.variants import Variant, Variants

__all__ = ["docs_page", "example_body", "openapi"]

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
_UNKNOWN = "No such model or version."


def openapi(variants: Variants, *, page: bool = False, admin: bool = False) -> dict[str, Any]:
    """Describe the routes in OpenAPI 3.1.

    Args:
        variants: the bundles, whose columns the request has.
        page: whether there is the page of the experiment.
        admin: whether there are the routes of admins.
    """
    model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    given = {"name": list(variants.all), "version": [variant.version for variant in variants.all.values()]}
    paths = {
        "/v1/score": {"post": _score()},
        **{f"{path}/infer": {"post": _infer(path, given)} for path in (model, version)},
        **{path: {"get": _get("Inputs and outputs of a model.", "Model", path, given)} for path in (model, version)},
        **{
            f"{path}/ready": {"get": _get("Whether a model is ready.", "ModelReady", path, given, late=True)}
            for path in (model, version)
        },
        "/v2": {"get": _get("Name and version of the server.", "Server")},
        "/v2/health/live": {"get": _get("Whether the process runs.", "Live")},
        "/v2/health/ready": {"get": _get("Whether requests are answered.", "Ready", late=True)},
        "/livez": {"get": _get("Whether the process runs.", "Live")},
        "/readyz": {"get": _get("Whether golden rows were reproduced and requests are answered.", "Ready", late=True)},
        "/metrics": {"get": _page("Metrics for Prometheus.", "text/plain")},
        "/docs": {"get": _page("A page for people.", "text/html")},
        "/openapi.json": {"get": _page("This document.", "application/json")},
        **(page_path() if page else {}),
        **(admin_paths(list(variants.registries)) if admin else {}),
    }
    components: dict[str, Any] = {"schemas": schemas(variants)}
    if admin:
        components["schemas"] |= admin_schemas()
        components["securitySchemes"] = {"admin": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "funnelcast", "version": __version__},
        "paths": paths,
        "components": components,
    }


def _reads(description: str, name: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


def _parameters(path: str, given: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": list(known)}}
        for name, known in given.items()
        if f"{{{name}}}" in path
    ]


def _score() -> dict[str, Any]:
    refused = {status: _reads(text, "Error") for status, text in _ERRORS.items()}
    # Queries are text: true and 1 say the same.
    strict = {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}]}
    return {
        "summary": "Score the candidates of one user.",
        "parameters": [{"name": "strict", "in": "query", "schema": strict}],
        "requestBody": {"required": True, **_reads("The candidates.", "Request")},
        "responses": {"200": _reads("Scores.", "Answer"), **refused},
    }


def _infer(path: str, given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    refused = {status: _reads(text, "TensorError") for status, text in {**_ERRORS, "404": _UNKNOWN}.items()}
    return {
        "summary": "Score named tensors (Open Inference Protocol V2).",
        "parameters": _parameters(path, given),
        "requestBody": {"required": True, **_reads("A tensor a raw column.", "Tensors")},
        "responses": {"200": _reads("Scores.", "TensorAnswer"), **refused},
    }


def _get(
    summary: str, answer: str, path: str = "", given: Mapping[str, Sequence[str]] | None = None, *, late: bool = False
) -> dict[str, Any]:
    responses = {"200": _reads(summary, answer)}
    if path:
        responses["404"] = _reads(_UNKNOWN, "TensorError")
    if late:
        responses["503"] = _reads("Not ready.", answer)
    return {"summary": summary, "parameters": _parameters(path, given or {}), "responses": responses}


def _page(summary: str, kind: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}}}


def example_body(variant: Variant) -> dict[str, Any]:
    """Make a request that works, of golden rows.

    Args:
        variant: the bundle.
    """
    return {"candidates": variant.bundle.golden.rows[4:6]}


def docs_page(variants: Variants, *, page: bool = False, admin: bool = False) -> str:
    """Write the page: routes, columns, and a request to copy.

    Args:
        variants: the bundles.
        page: whether there is the page of the experiment.
        admin: whether there are the routes of admins.
    """
    routes = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(told['summary'])}</td></tr>"
        for path, methods in openapi(variants, page=page, admin=admin)["paths"].items()
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
