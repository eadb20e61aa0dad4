"""What the OpenAPI document says of the routes that exist only where they are set up: those of admins, and `/ab`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["admin_paths", "admin_schemas", "page_path"]

_TEXT, _SHARES = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "number"}}
_WRONG = {
    "400": "A wrong body, or a change that cannot be.",
    "401": "No admin key, or none that is known.",
    "404": "No such registry.",
    "408": "The body came too slowly.",
    "409": "The registry or the traffic file refuses it, or there is none.",
    "413": "Too many bytes.",
    "415": "No JSON, or packed.",
}
_SWITCHED = {"500": "It is done, and could not be written to the registry's log."}


def _of(*statuses: str) -> dict[str, str]:
    return {status: _WRONG[status] for status in statuses}


_WITHOUT_BODY = _of("401", "404", "409") | _SWITCHED


def admin_paths(registries: Sequence[str]) -> dict[str, Any]:
    """Describe the routes of admins.

    Args:
        registries: names of the variants that follow one.
    """
    where = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": [*registries]}}]
    return {
        "/admin/versions": {"get": _route("Versions, what answers here, and shares.", "Versions", _of("401", "409"))},
        "/admin/registries/{name}/activate": {
            "post": _route("Let a version answer.", "Version", _WRONG | _SWITCHED, "Version") | {"parameters": where}
        },
        "/admin/registries/{name}/rollback": {
            "post": _route("Let the version before answer.", "Version", _WITHOUT_BODY) | {"parameters": where}
        },
        "/admin/traffic": {"post": _route("Set the shares of the users.", "Traffic", _WRONG, "Shares")},
        "/admin/traffic/off": {"post": _route("Take all users from a variant.", "Traffic", _WRONG, "Off")},
    }


def page_path() -> dict[str, Any]:
    """Describe `/ab`."""
    responses: dict[str, Any] = {"200": {"description": "The page.", "content": {"text/html": {}}}}
    responses |= _refused({"401": _WRONG["401"], "503": "It could not be made; see Retry-After."})
    return {"/ab": {"get": {"summary": "The page of the experiment that runs.", "responses": responses}}}


def admin_schemas() -> dict[str, Any]:
    """Describe the bodies of the routes of admins by name."""
    traffic = {"experiment": _TEXT, "shares": _SHARES}
    return {
        "Version": _strict({"version": _TEXT}, "version"),
        "Shares": _strict({"shares": _SHARES, "experiment": {"type": ["string", "null"]}}, "shares"),
        "Off": _strict({"variant": _TEXT}, "variant"),
        "Traffic": _strict(traffic, *traffic),
        "Versions": _strict(
            {**traffic, "variants": {"type": "object"}, "traffic_file": {"type": "boolean"}},
            *(*traffic, "variants", "traffic_file"),
        ),
    }


def _strict(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": dict(properties),
    }


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _refused(texts: Mapping[str, str]) -> dict[str, Any]:
    return {status: {"description": text, "content": _content("Error")} for status, text in texts.items()}


def _route(summary: str, answer: str, refused: Mapping[str, str], asked: str | None = None) -> dict[str, Any]:
    described = {
        "summary": summary,
        "security": [{"admin": []}],
        "responses": {
            "200": {"description": summary, "content": _content(answer)},
            **_refused(refused),
        },
    }
    return described | ({} if asked is None else {"requestBody": {"required": True, "content": _content(asked)}})
