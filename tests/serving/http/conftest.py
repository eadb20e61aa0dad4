"""A service on a bundle with every kind of raw column, made once for all tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.applications import Starlette
from tests.bundles_on_disk import train_run
from tests.shop_on_disk import prepare_shop

from funnelcast.calibrate import calibrate
from funnelcast.data.shards import PreparedData
from funnelcast.export import export_run
from funnelcast.run import Run
from funnelcast.serving.http.app import create_app
from funnelcast.serving.http.service import Service
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.variants import Variants
from funnelcast.serving.registry import Registry

FEATURES = [
    {"name": "item"},
    {"name": "shelf", "encoder": "hash", "buckets": 16},
    {"name": "colour"},
    {"name": "fresh"},
    {"name": "price", "kind": "numeric"},
    {"name": "age", "kind": "numeric", "encoder": "quantile", "buckets": 4},
    {"name": "tags", "kind": "multi", "max_length": 3},
    {"name": "sizes", "kind": "multi", "max_length": 3},
    {"name": "words", "kind": "multi", "separator": "|", "max_length": 3},
]
ROW: dict[str, Any] = {
    "item": 3, "shelf": "s1", "colour": "red", "fresh": True, "price": 9.5, "age": 31,
    "tags": ["a", "b"], "sizes": [1, 2], "words": "x|y",
}  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Calls an ASGI application as a server would, in a loop of its own."""

    def __init__(self, app: Starlette, service: Service) -> None:
        self.app, self.service = app, service
        self.runner = asyncio.Runner()
        self._life = app.router.lifespan_context(app)

    def __enter__(self) -> Client:
        self.runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run(self._life.__aexit__(None, None, None))
        self.runner.close()

    async def _start(self) -> None:
        await self._life.__aenter__()
        while not self.service.ready:
            await asyncio.sleep(0.01)

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        return self.runner.run(self.call_async(method, path, body, None, **headers))

    def post(self, said: Any, path: str = "/v1/score", **headers: str) -> Reply:
        return self.call("POST", path, json.dumps(said).encode(), **headers)

    async def call_async(
        self, method: str, path: str, body: bytes = b"", pieces: Callable[[], Any] | None = None, **headers: str
    ) -> Reply:
        given = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        plain, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": plain,
            "raw_path": plain.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()], "client": ("here", 1),
            "server": ("here", 2), "state": {},
        }  # fmt: skip
        sent: list[Any] = []

        async def whole() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, pieces() if pieces else whole, send)
        start, *parts = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], found, b"".join(part.get("body", b"") for part in parts))


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles `first` and `second` and the run of the first."""
    folder = tmp_path_factory.mktemp("shop")
    draw = np.random.default_rng(0)
    rows = 400
    click = draw.random(rows) < 0.5
    columns = {
        "item": draw.integers(0, 30, rows),
        "shelf": [f"s{k}" for k in draw.integers(0, 9, rows)],
        "colour": pa.array(draw.choice(["red", "green", "12"], rows).tolist(), mask=draw.random(rows) < 0.1),
        "fresh": draw.random(rows) < 0.5,
        "price": np.round(draw.lognormal(2, 1, rows), 2),
        "age": draw.integers(18, 80, rows),
        "tags": [draw.choice(["a", "b", "c"], k).tolist() for k in draw.integers(0, 4, rows)],
        "sizes": [draw.integers(0, 5, k).tolist() for k in draw.integers(0, 4, rows)],
        "words": ["|".join(draw.choice(["x", "y", "z"], k)) for k in draw.integers(0, 4, rows)],
        "click": click.astype(np.int8),
        "buy": (click & (draw.random(rows) < 0.4)).astype(np.int8),
        "part": ["train"] * 240 + ["valid"] * 80 + ["test"] * 80,
    }
    prepared = prepare_shop(
        folder, [{"name": "click"}, {"name": "buy"}], columns, features=FEATURES,
        target_statistics=[{"columns": ["item"]}, {"columns": ["colour", "shelf"]}],
    )  # fmt: skip
    for name, hidden in (("first", [4]), ("second", [5])):
        run = train_run(folder / f"run-{name}", prepared, hidden=hidden)
        if name == "first":
            calibrate(run, PreparedData(prepared), method="joint")
        export_run(run, "onnx", folder / name)
    return folder


@pytest.fixture(scope="session")
def first(shop: Path) -> Path:
    return shop / "first"


@pytest.fixture(scope="session")
def first_run(shop: Path) -> Run:
    return Run(shop / "run-first")


def make_client(folders: list[Path], **changes: Any) -> Client:
    settings = Settings.model_validate(changes)
    service = Service(Variants.load(folders, settings), settings)
    return Client(create_app(service), service)


@pytest.fixture(scope="session")
def client(first: Path) -> Iterator[Client]:
    with make_client([first], limits={"rows": 50, "body_bytes": 100_000}) as client:
        yield client


def wait_for(client: Client, holds: Callable[[], bool]) -> None:
    async def wait() -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.02)

    client.runner.run(wait())


@pytest.fixture
def registry(shop: Path, tmp_path: Path) -> Registry:
    """Both bundles, of which the first answers."""
    registry = Registry(tmp_path / "models")
    versions = [registry.add(shop / name) for name in ("first", "second")]
    registry.activate(versions[0])
    return registry
