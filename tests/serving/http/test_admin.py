"""Admin routes: there with keys alone, the functions of the command line, and the same logs of changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.http.conftest import ROW, Client, Reply, make_client, wait_for
from tests.serving.http.test_registry import full_disk_for_the_log

from funnelcast.serving.http.service import ADMIN_KEYS, SCORE_KEYS
from funnelcast.serving.registry import Registry
from funnelcast.serving.traffic import read_traffic, set_shares

KEY, SCORE_KEY = "an-admin-key-of-a-test", "a-score-key-of-a-test"
HASH = hashlib.sha256(KEY.encode()).hexdigest()[:8]
ROUTES = [
    ("GET", "/admin/versions", b""),
    ("POST", "/admin/registries/models/activate", b'{"version": "ffffffffffff"}'),
    ("POST", "/admin/registries/models/rollback", b""),
    ("POST", "/admin/traffic", b'{"shares": {"models": 1}}'),
    ("POST", "/admin/traffic/off", b'{"variant": "models"}'),
]


@pytest.fixture
def client(shop: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A registry and a bundle, a traffic file, and keys for both purposes."""
    monkeypatch.setenv(ADMIN_KEYS, KEY)
    monkeypatch.setenv(SCORE_KEYS, SCORE_KEY)
    set_shares(tmp_path / "traffic.json", {"models": 0.5, "second": 0.5}, "spring")
    with make_client([registry.folder, shop / "second"], traffic=tmp_path / "traffic.json") as client:
        yield client


def ask(client: Client, path: str, said: Any = None, key: str = KEY) -> Reply:
    body = b"" if said is None else json.dumps(said).encode()
    method = "GET" if path == "/admin/versions" else "POST"
    return client.call(method, path, body, authorization=f"Bearer {key}")


def test_versions_are_listed_activated_and_rolled_back(client: Client, registry: Registry) -> None:
    first = registry.current().version
    (second,) = set(registry.versions()) - {first}
    said = ask(client, "/admin/versions").json
    assert said["variants"]["models"] == {
        "answers": first, "shadow": False, "current": first, "former": None, "versions": registry.versions(),
    }  # fmt: skip
    assert said["variants"]["second"] == {"answers": second, "shadow": False}
    assert (said["experiment"], said["shares"], said["traffic_file"]) == (
        "spring",
        {"models": 0.5, "second": 0.5},
        True,
    )
    assert ask(client, "/admin/registries/models/activate", {"version": second}).json == {"version": second}
    wait_for(client, lambda: client.service.variants.all["models"].version == second)
    assert ask(client, "/admin/registries/models/rollback").json == {"version": first}
    wait_for(client, lambda: client.service.variants.all["models"].version == first)
    refused = ask(client, "/admin/registries/models/activate", {"version": "../../etc"})
    assert (refused.status, refused.json["error"]["code"]) == (409, "refused")
    assert "no version '../../etc'" in refused.json["error"]["message"]
    lines = [json.loads(line) for line in (registry.folder / "audit.jsonl").read_text().splitlines()][-3:]
    assert [(line["by"], line["action"]) for line in lines] == [
        (f"key {HASH}", action) for action in ("activate", "rollback", "activate")
    ]
    assert [line["outcome"][:7] for line in lines] == ["done", "done", "refused"]


def test_shares_are_set_and_a_variant_is_switched_off(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    said = ask(client, "/admin/traffic", {"shares": {"models": 0.9, "second": 0.1}})
    assert said.json["experiment"] == "spring" and said.json["shares"] == pytest.approx({"models": 0.9, "second": 0.1})
    assert ask(client, "/admin/traffic/off", {"variant": "second"}).json["shares"] == pytest.approx({"models": 1})
    wait_for(client, lambda: client.service.variants.traffic == read_traffic(path))
    reply = client.post({"user": "ann", "candidates": [ROW]}, x_api_key=SCORE_KEY)
    assert reply.json["variant"] == "models"
    assert (
        ask(client, "/admin/traffic", {"shares": {"second": 1}, "experiment": "summer"}).json["experiment"] == "summer"
    )
    changes = json.loads(path.read_text())["changes"]
    assert [change["by"] for change in changes[1:]] == [f"key {HASH}"] * 3
    assert KEY not in path.read_text()


@pytest.mark.parametrize(
    ("path", "said", "status", "code"),
    [
        ("/admin/traffic", {"shares": {"models": 0.5}}, 400, "wrong_change"),
        ("/admin/traffic", {"shares": {"third": 1}}, 400, "unknown_model"),
        ("/admin/traffic", {"shares": {"": 1}}, 400, "unknown_model"),
        ("/admin/traffic", {"shares": {"models": "much"}}, 400, "wrong_shape"),
        ("/admin/traffic", {"share": {"models": 1}}, 400, "wrong_shape"),
        ("/admin/traffic", None, 400, "empty_body"),
        ("/admin/traffic/off", {"variant": "third"}, 400, "wrong_change"),
        ("/admin/registries/second/rollback", None, 404, "unknown_model"),
        ("/admin/registries/..%2f/activate", {"version": "ffffffffffff"}, 404, "unknown_model"),
        ("/admin/registries/models/rollback", None, 409, "refused"),
    ],
)
def test_what_is_wrong_changes_nothing(
    client: Client, registry: Registry, tmp_path: Path, path: str, said: Any, status: int, code: str
) -> None:
    before = (tmp_path / "traffic.json").read_bytes(), registry.current()
    reply = ask(client, path, said)
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert ((tmp_path / "traffic.json").read_bytes(), registry.current()) == before


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_only_an_admin_key_opens_them(
    client: Client, registry: Registry, tmp_path: Path, method: str, path: str, body: bytes
) -> None:
    before = (tmp_path / "traffic.json").read_bytes(), (registry.folder / "audit.jsonl").read_bytes()
    for headers in ({}, {"authorization": f"Bearer {SCORE_KEY}"}, {"x_api_key": KEY[:-1]}):
        assert client.call(method, path, body, **headers).json["error"]["code"] == "wrong_key"
    assert ((tmp_path / "traffic.json").read_bytes(), (registry.folder / "audit.jsonl").read_bytes()) == before
    assert client.post({"user": "ann", "candidates": [ROW]}, x_api_key=KEY).status == 401


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_without_keys_there_are_no_such_routes(first: Path, method: str, path: str, body: bytes) -> None:
    with make_client([first]) as client:
        assert client.call(method, path, body, authorization=f"Bearer {KEY}").json["error"]["code"] == "unknown_route"


def test_without_a_traffic_file_no_shares_are_changed(first: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    with make_client([first], admin_keys=tmp_path / "keys") as client:
        assert ask(client, "/admin/versions").json["traffic_file"] is False
        for path, said in (("/admin/traffic", {"shares": {"first": 1}}), ("/admin/traffic/off", {"variant": "first"})):
            assert ask(client, path, said).json["error"]["code"] == "no_traffic_file"


def test_the_log_names_the_short_hash_alone(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "funnelcast.serve")
    ask(client, "/admin/traffic", {"shares": {"models": 1}})
    said = [getattr(record, "said", {}) for record in caplog.records]
    assert f"key {HASH}" in [one.get("by") for one in said] and KEY not in repr(said)


def test_a_body_that_takes_all_the_memory_does_not_keep_an_admin_out(client: Client, tmp_path: Path) -> None:
    admission, limit = client.service.admission, client.service.settings.limits.held_bytes
    admission.held += limit  # by bodies that are not complete
    reply = ask(client, "/admin/traffic/off", {"variant": "second"})
    assert reply.status == 200 and read_traffic(tmp_path / "traffic.json").allocation.shares == {"models": 1}
    assert admission.held == limit
    assert client.post({"user": "ann", "candidates": [ROW]}, x_api_key=SCORE_KEY).status == 429
    admission.held -= limit


def test_bodies_for_admins_have_a_limit_of_their_own(client: Client) -> None:
    path, said, auth = "/admin/traffic/off", b'{"variant": "second"}', f"Bearer {KEY}"
    assert client.call("POST", path, said.ljust(1 << 16), authorization=auth).status == 200
    long = said.ljust((1 << 16) + 1)
    for headers in ({}, {"content_length": str(len(long))}):
        reply = client.call("POST", path, long, authorization=auth, **headers)
        assert (reply.status, reply.json["error"]["code"], reply.headers["connection"]) == (413, "too_large", "close")
    assert client.service.admission.held == 0


def test_a_change_that_is_done_and_not_logged_is_told_from_one_that_is_refused(
    client: Client, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = registry.current().version
    (second,) = set(registry.versions()) - {first}
    with full_disk_for_the_log(monkeypatch):
        for route, body, version in (("activate", {"version": second}, second), ("rollback", None, first)):
            reply = ask(client, f"/admin/registries/models/{route}", body)
            assert (reply.status, reply.json["error"]["code"]) == (500, "not_logged")
            assert f"'{route}' of '{version}' is done" in reply.json["error"]["message"]
            assert registry.current().version == version
        refused = ask(client, "/admin/registries/models/activate", {"version": "ffffffffffff"})
        assert (refused.status, refused.json["error"]["code"]) == (409, "refused")
    said = [getattr(record, "said", {}) for record in caplog.records if record.getMessage() == "not_logged"]
    assert [one["by"] for one in said] == [f"key {HASH}"] * 2  # the service's log says who it was
