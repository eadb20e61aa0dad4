"""Routes that change who answers: the functions of the command line behind keys of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from funnelcast.errors import ConfigError, FunnelcastError, choices
from funnelcast.serving.http.answer import encode_json
from funnelcast.serving.http.decode import decode_json
from funnelcast.serving.http.keys import Keys
from funnelcast.serving.http.measure import log_line
from funnelcast.serving.http.refusal import RefusalError, quoted
from funnelcast.serving.http.service import Service
from funnelcast.serving.registry import NotLoggedError, Registry
from funnelcast.serving.traffic import Traffic, set_shares, switch_off

__all__ = ["admin_routes"]

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
_BODY_BYTES = 1 << 16

_Name = Annotated[str, msgspec.Meta(max_length=255)]  # what is refused stands in the audit log, too


class _Version(msgspec.Struct, forbid_unknown_fields=True):
    version: _Name


class _Shares(msgspec.Struct, forbid_unknown_fields=True):
    shares: dict[_Name, float]
    experiment: _Name | None = None


class _Off(msgspec.Struct, forbid_unknown_fields=True):
    variant: _Name


_VERSION = msgspec.json.Decoder(_Version)
_SHARES = msgspec.json.Decoder(_Shares)
_OFF = msgspec.json.Decoder(_Off)


def admin_routes(service: Service, keys: Keys) -> list[tuple[str, str, Handler]]:
    """List method, path and handler of every route.

    Args:
        service: whose registries and traffic file are changed; it follows them like any change.
        keys: that may.
    """
    admin = _Admin(service, keys)
    return [
        ("GET", "/admin/versions", admin.versions),
        ("POST", "/admin/registries/{name}/activate", admin.activate),
        ("POST", "/admin/registries/{name}/rollback", admin.rollback),
        ("POST", "/admin/traffic", admin.shares),
        ("POST", "/admin/traffic/off", admin.off),
    ]


class _Admin:
    def __init__(self, service: Service, keys: Keys) -> None:
        self._service, self._keys = service, keys

    async def versions(self, request: Request) -> Response:
        self._keys.check(request.headers)
        return _json(await _in_thread(self._versions))

    async def activate(self, request: Request) -> Response:
        by = self._by(request)
        registry = self._registry(request, by)
        version = decode_json(_VERSION, await self._body(request)).version
        await self._switch(request, by, partial(registry.activate, version))
        return self._changed(request, by, {"version": version})

    async def rollback(self, request: Request) -> Response:
        by = self._by(request)
        version = await self._switch(request, by, self._registry(request, by).rollback)
        return self._changed(request, by, {"version": version})

    async def shares(self, request: Request) -> Response:
        by, path = self._by(request), self._traffic()
        asked = decode_json(_SHARES, await self._body(request))
        known = self._service.variants.all
        if unknown := [name for name in asked.shares if name not in known]:
            message = f"shares: no bundle '{unknown[0]}'; {choices(known, unknown[0])}"
            raise RefusalError(400, "unknown_model", message)
        found = await _in_thread(partial(set_shares, path, asked.shares, asked.experiment, by))
        return self._changed(request, by, _said(found))

    async def off(self, request: Request) -> Response:
        by, path = self._by(request), self._traffic()
        variant = decode_json(_OFF, await self._body(request)).variant
        found = await _in_thread(partial(switch_off, path, variant, by))
        return self._changed(request, by, _said(found))

    def _by(self, request: Request) -> str:
        return f"key {self._keys.check(request.headers)}"

    async def _body(self, request: Request) -> bytes:
        """Read a body past the limits of scoring: whoever has a key can switch a variant off while these are met."""
        return await self._service.admission.read_aside(request, _BODY_BYTES)

    async def _switch(self, request: Request, by: str, job: Callable[[], T]) -> T:
        """Change a registry; where its log cannot be written, the service's says who did it."""
        try:
            return await _in_thread(job)
        except NotLoggedError as error:
            said = {"request_id": request.state.id, "by": by, "path": request.url.path}
            log_line("not_logged", level=logging.ERROR, reason=str(error), **said)
            raise RefusalError(500, "not_logged", str(error)) from error

    def _registry(self, request: Request, by: str) -> Registry:
        name, known = request.path_params["name"], self._service.variants.registries
        if name not in known:
            message = f"there is no registry {quoted(name)}; known: {', '.join(known) or 'none'}"
            raise RefusalError(404, "unknown_model", message)
        return Registry(known[name], by)

    def _traffic(self) -> Path:
        path = self._service.settings.traffic
        if path is None:
            message = "the service should follow a traffic file, 'traffic' of serve.toml, received none"
            raise RefusalError(409, "no_traffic_file", message)
        return path

    def _versions(self) -> dict[str, Any]:
        variants = self._service.variants
        found: dict[str, Any] = {}
        for name, variant in variants.all.items():
            found[name] = {"answers": variant.version, "shadow": name in variants.shadows}
            if name in variants.registries:
                registry = Registry(variants.registries[name])
                pointer = registry.current()
                found[name] |= {"current": pointer.version, "former": pointer.former, "versions": registry.versions()}
        return {
            "variants": found,
            **_said(variants.traffic),
            "traffic_file": self._service.settings.traffic is not None,
        }

    def _changed(self, request: Request, by: str, said: dict[str, Any]) -> Response:
        log_line("admin", request_id=request.state.id, by=by, path=request.url.path, **said)
        return _json(said)


async def _in_thread(job: Callable[[], T]) -> T:
    """Run what reads and writes files aside from the loop; what it refuses is the client's to know."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, job)
    except ConfigError as error:
        raise RefusalError(400, "wrong_change", str(error)) from error
    except NotLoggedError:
        raise  # `_switch` knows who changed it
    except FunnelcastError as error:
        raise RefusalError(409, "refused", str(error)) from error


def _said(traffic: Traffic) -> dict[str, Any]:
    return {"experiment": traffic.experiment, "shares": traffic.allocation.shares}


def _json(said: object) -> Response:
    return Response(encode_json(said), media_type="application/json")
