"""Shares change while a service runs, with the fewest users moved; a variant can be switched off."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.serving.http.conftest import ROW, Client, make_client

from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.serving.http import follow
from funnelcast.serving.traffic import read_traffic, set_shares, switch_off

USERS = [f"user {number}" for number in range(60)]


def variants(client: Client) -> list[str]:
    return [client.post({"user": user, "candidates": [ROW]}).json["variant"] for user in USERS]


def wait_for_shares(client: Client, shares: dict[str, float]) -> None:
    async def wait() -> None:
        async with asyncio.timeout(10):
            while client.service.variants.traffic.allocation.shares != pytest.approx(shares):
                await asyncio.sleep(0.02)

    client.runner.run(wait())


def wait_for_refusal(client: Client) -> None:
    async def wait() -> None:
        line = b'funnelcast_refused_swaps_total{variant="traffic"} 1.0'
        async with asyncio.timeout(10):
            while line not in (await client.call_async("GET", "/metrics")).body:
                await asyncio.sleep(0.02)

    client.runner.run(wait())


def test_users_follow_the_file(shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    set_shares(path, {"first": 0.9, "second": 0.1}, "spring")
    with make_client([shop / "first", shop / "second"], traffic=path) as client:
        start = variants(client)
        assert start == read_traffic(path).allocation.assign(USERS, "spring")
        set_shares(path, {"first": 0.5, "second": 0.5})
        wait_for_shares(client, {"first": 0.5, "second": 0.5})
        half = variants(client)
        assert {(a, b) for a, b in zip(start, half, strict=True) if a != b} == {("first", "second")}
        switch_off(path, "second")
        wait_for_shares(client, {"first": 1.0})
        assert set(variants(client)) == {"first"}
        path.write_text("{}")
        wait_for_refusal(client)
        assert set(variants(client)) == {"first"}


def test_a_defect_does_not_end_the_following(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "traffic.json"
    set_shares(path, {"first": 0.9, "second": 0.1}, "spring")
    with make_client([shop / "first", shop / "second"], traffic=path) as client:
        with monkeypatch.context() as broken:
            broken.setattr(follow, "read_traffic", Mock(side_effect=RuntimeError("a defect")))
            wait_for_refusal(client)
        set_shares(path, {"first": 0.5, "second": 0.5})
        wait_for_shares(client, {"first": 0.5, "second": 0.5})
        assert variants(client) == read_traffic(path).allocation.assign(USERS, "spring")


def test_a_file_that_names_no_bundle_is_refused(shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    set_shares(path, {"first": 0.9, "third": 0.1}, "spring")
    with pytest.raises(ConfigError, match="no bundle has the name 'third'"):
        make_client([shop / "first", shop / "second"], traffic=path)
    with pytest.raises(ArtifactError, match=r"nowhere.json: should be a traffic file, but does not exist"):
        make_client([shop / "first"], traffic=tmp_path / "nowhere.json")


def test_the_file_keeps_every_change_and_the_experiment(tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    with pytest.raises(ConfigError, match="needs the name of its experiment"):
        set_shares(path, {"a": 1.0})
    set_shares(path, {"a": 0.5, "b": 0.3, "c": 0.2}, "spring")
    assert switch_off(path, "a").allocation.shares == pytest.approx({"b": 0.6, "c": 0.4})
    with pytest.raises(ConfigError, match=r"'a' should be a variant with a share; .*known: b, c"):
        switch_off(path, "a")
    assert set_shares(path, {"b": 1.0}).experiment == "spring"
    with pytest.raises(ConfigError, match="'b' has all users"):
        switch_off(path, "b")
    with pytest.raises(ConfigError, match="shares should be 0 or more with the sum 1"):
        set_shares(path, {"b": 0.7})
    assert set_shares(path, {"a": 0.5, "b": 0.5}, "summer") == read_traffic(path)
    assert [change["action"] for change in json.loads(path.read_text())["changes"]] == ["shares", "off"] + [
        "shares"
    ] * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"format": 1, "experiment": "x", "parts": [["a", 0.5]], "changes": []}',
        '{"format": 1, "experiment": "x", "parts": [["a", 1%s]], "changes": [{"time": "2026-01-01"}]}' % ("0" * 400),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "traffic.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"traffic.json: should be a traffic file, received"):
        read_traffic(tmp_path / "traffic.json")


def test_the_command_sets_shows_and_switches_off(tmp_path: Path, command: Any) -> None:
    path = str(tmp_path / "traffic.json")
    set_it = command("traffic", path, "control=0.75", "new=0.25", "--experiment", "spring")
    assert set_it == (0, "experiment spring: control 0.75, new 0.25\n", "")
    assert command("traffic", path)[1] == set_it[1]
    assert command("traffic", path, "--off", "new")[1] == "experiment spring: control 1\n"
    code, _, errors = command("traffic", path, "control=much")
    assert code == 2 and "the share of 'control' should be a number" in errors
    assert "the share of '' should be a number" in command("traffic", path, "=much")[2]
    assert command("traffic", path, "control=1", "--off", "new")[0] == 2
    assert "a share should be key=value, received 'control'" in command("traffic", path, "control")[2]
    assert command("traffic", path, "--experiment", "summer")[1] == "experiment summer: control 1\n"
    assert read_traffic(tmp_path / "traffic.json").experiment == "summer"
