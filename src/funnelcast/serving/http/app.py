"""The routes of the service, as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from funnelcast.serving.http.admin import admin_routes
from funnelcast.serving.http.answer import encode_json
from funnelcast.serving.http.door import Door
from funnelcast.serving.http.measure import log_line
from funnelcast.serving.http.open_inference import model_metadata, server_metadata
from funnelcast.serving.http.openapi import docs_page, openapi
from funnelcast.serving.http.paced import TOO_LATE
from funnelcast.serving.http.refusal import RefusalError, excerpt, forget_frames, refusal_body, request_id_of
from funnelcast.serving.http.scoring import Answered, Asked
from funnelcast.serving.http.service import Service

__all__ = ["create_app"]

Handler = Callable[[Request], Awaitable[Response]]
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_JSON, _SCORE = "application/json", "/v1/score"
_ERRORS = {
    404: ("unknown_route", "there is no such route"),
    405: ("wrong_method", "the route does not take this method"),
}


def create_app(service: Service) -> Starlette:
    """Make the application.

    Args:
        service: what it serves; golden rows are scored once the application has started.
    """
    routes = _Routes(service)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        starting = asyncio.get_running_loop().run_in_executor(None, routes.start)
        telling = asyncio.create_task(service.metrics.tell())
        # The server hands this to every connection.
        yield {"door": Door(service.admission, service.shedding, service.metrics, service.requests)}
        telling.cancel()
        await starting
        await asyncio.get_running_loop().run_in_executor(None, service.stop)
        service.shedding.say()
        service.requests.flush()

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, message = _ERRORS.get(error.status_code, ("refused", error.detail))
        refusal = RefusalError(error.status_code, code, message, column="path", headers=error.headers)
        return await routes.guarded("other", lambda _: _raise(refusal))(request)

    score = routes.guarded(_SCORE, routes.score)
    app = _Direct(score, routes=routes.all(), lifespan=life, exception_handlers={HTTPException: refuse})
    app.router.redirect_slashes = False  # a redirect would name the host that the client named
    return app


class _Direct(Starlette):
    """Takes the route that most requests ask for past routing and layers, an eighth of a request of one row."""

    def __init__(self, score: Handler, **given: Any) -> None:
        super().__init__(**given)
        self._score = score

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == _SCORE and scope["method"] == "POST":
            response = await self._score(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _raise(error: Exception) -> Response:
    raise error


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._health = {"live": True}

    def start(self) -> None:
        """Make the service ready; where that fails it never is, and the log says why."""
        try:
            self._service.start()
        except Exception:
            log_line("not_ready", level=logging.ERROR, error=True)
            return
        log_line("ready", models={name: one.version for name, one in self._service.variants.all.items()})

    def all(self) -> list[Route]:
        model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        given: list[tuple[str, str, Handler]] = [
            ("POST", _SCORE, self.score),  # routes are tried in this order
            ("GET", "/livez", self.live),
            ("GET", "/readyz", self.is_ready),
            ("GET", "/metrics", self.metrics),
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/docs", self.docs),
            ("GET", "/v2", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.is_ready),
            *(("GET", path, self.model) for path in (model, version)),
            *(("GET", f"{path}/ready", self.model_ready) for path in (model, version)),
            *(("POST", f"{path}/infer", self.infer) for path in (model, version)),
        ]
        if self._service.ab is not None:
            given.append(("GET", "/ab", self.ab))
        if self._service.admin_keys is not None:
            given += admin_routes(self._service, self._service.admin_keys)
        return [Route(path, self.guarded(path, handler), methods=[method]) for method, path, handler in given]

    def guarded(self, label: str, handler: Handler) -> Handler:
        """Wrap a handler: every request gets an id, an answer, a count and a line of the log.

        Args:
            label: of the route, for metrics.
            handler: may raise `RefusalError`.
        """

        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            request.state.id = request_id_of(request.headers.get("x-request-id", ""))
            request.state.started, request.state.said = started, {}
            try:
                response = await handler(request)
            except RefusalError as error:
                response = _refusal(request, error)
                forget_frames(error)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; the number is for the log
            except Exception as error:
                log_line("failure", level=logging.ERROR, error=True, request_id=request.state.id, route=label)
                response = _refusal(request, RefusalError(500, "failure", "the service failed; its log says why"))
                forget_frames(error)
            response.headers["x-request-id"] = request.state.id
            self._record(request, label, response.status_code, time.perf_counter() - started)
            return response

        return handle

    def _record(self, request: Request, label: str, status: int, seconds: float) -> None:
        metrics = self._service.metrics
        metrics.seconds.labels(label).observe(seconds)
        if status == 429:
            self._service.shedding.count(label)
            return
        metrics.requests.labels(label, str(status)).inc()
        if request.method == "POST" or status >= 400:
            said = {"request_id": request.state.id, "route": label, "ms": round(seconds * 1000, 3)}
            self._service.requests.add(status, **said, **request.state.said)

    async def score(self, request: Request) -> Response:
        strict, read = _flag(request, "strict", self._service.settings.strict), b""

        def prepare(body: bytes, deadline: float) -> Asked | Callable[[], Answered]:
            nonlocal read
            read = body
            return self._service.prepare(body, request.state.id, strict, deadline)

        try:
            return await self._answer(request, prepare)
        except RefusalError as error:
            if error.code == TOO_LATE:
                self._service.expose_late(read, request.state.id)
            raise

    async def infer(self, request: Request) -> Response:
        variant = self._service.variants.named(request.path_params["name"], request.path_params.get("version"))
        if "inference-header-content-length" in request.headers:
            message = "tensors should be JSON; the binary extension is not offered"
            raise RefusalError(415, "no_extension", message, headers={"connection": "close"})
        infer = self._service.scoring.infer
        return await self._answer(request, lambda body, _: partial(infer, body, request.state.id, variant))

    async def _answer(
        self, request: Request, prepare: Callable[[bytes, float], Asked | Callable[[], Answered]]
    ) -> Response:
        """Read a body, score it, and note what was answered; `prepare` returns a small request, or a thread's job."""
        service = self._service
        if service.keys is not None:
            service.keys.check(request.headers)
        if not service.ready:
            raise RefusalError(503, "not_ready", "the service is not ready", headers={"retry-after": "1"})
        service.admission.check()
        deadline = service.admission.deadline(request.headers)
        body = await service.admission.read(request)
        try:
            job = prepare(body, deadline)
            if isinstance(job, Asked):
                answered = await service.admission.run_small(job)
            else:
                answered = await service.admission.run(job, deadline)
        finally:
            service.admission.let_go(body)
        service.note(answered, request.state.id, request.state.started)
        version = answered.variant.version
        request.state.said = {"rows": answered.rows, "variant": answered.variant.name, "model_version": version}
        after = None if answered.job is None else BackgroundTask(service.follow_up, answered)
        return Response(answered.body, media_type=_JSON, headers={"x-model-version": version}, background=after)

    async def live(self, _: Request) -> Response:
        return _json(self._health)

    async def is_ready(self, _: Request) -> Response:
        ready = self._service.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        self._service.shedding.settle()
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        return _json(openapi(self._service.variants, **self._more()))

    async def docs(self, _: Request) -> Response:
        return Response(docs_page(self._service.variants, **self._more()), media_type="text/html")

    def _more(self) -> dict[str, bool]:
        return {"page": self._service.ab is not None, "admin": self._service.admin_keys is not None}

    async def ab(self, request: Request) -> Response:
        service = self._service
        assert service.ab is not None
        if service.admin_keys is not None:
            service.admin_keys.check(request.headers, browser=True)
        return Response(await service.ab.page(), media_type="text/html", headers={"cache-control": "no-store"})

    async def server(self, _: Request) -> Response:
        return _json(server_metadata())

    async def model(self, request: Request) -> Response:
        named = self._service.variants.named(request.path_params["name"], request.path_params.get("version"))
        return _json(model_metadata(named))

    async def model_ready(self, request: Request) -> Response:
        named = self._service.variants.named(request.path_params["name"], request.path_params.get("version"))
        ready = self._service.ready
        return _json({"name": named.name, "ready": ready}, 200 if ready else 503)


def _json(said: object, status: int = 200) -> Response:
    return Response(encode_json(said), status, media_type=_JSON)


def _flag(request: Request, name: str, default: bool) -> bool:
    text = request.query_params.get(name) if request.scope["query_string"] else None
    if text is None:
        return default
    if text.lower() not in _FLAGS:
        message = f"the parameter '{name}' should be true or false, received {excerpt(text)}"
        raise RefusalError(400, "wrong_parameter", message, column=name)
    return _FLAGS[text.lower()]


def _refusal(request: Request, error: RefusalError) -> Response:
    request.state.said = {"code": error.code, "row": error.row}
    response = _json(refusal_body(error, request.state.id, request.url.path), error.status)
    response.headers.update(error.headers)
    return response
