"""Versions, swaps under way, bad models that never answer, and the log of it all."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.bundles_on_disk import edit_json, edit_model, edit_weight, sign, spoil_weight, swell, unknown_operator
from tests.serving.http.conftest import ROW, Client, make_client

from funnelcast.errors import ArtifactError
from funnelcast.serving import Bundle
from funnelcast.serving.http.follow import Follower
from funnelcast.serving.registry import NotLoggedError, Registry

BODY = json.dumps({"candidates": [ROW]}).encode()


@pytest.fixture
def second(shop: Path) -> str:
    return Bundle.load(shop / "second").version


def audit(registry: Registry) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (registry.folder / "audit.jsonl").read_text().splitlines()]


@contextmanager
def full_disk_for_the_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a registry writes to its log does not reach the disk; its pointer does."""

    def refuse(place: int) -> None:
        if os.path.realpath(f"/proc/self/fd/{place}").endswith("audit.jsonl"):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


async def answers_with(client: Client, version: str) -> None:
    async with asyncio.timeout(10):
        while (await client.call_async("POST", "/v1/score", BODY)).json["model_version"] != version:
            await asyncio.sleep(0.02)


def test_versions_come_and_go_back_and_all_is_written_down(registry: Registry, shop: Path, second: str) -> None:
    first = registry.current().version
    assert registry.current() == (first, None) and registry.versions() == sorted([first, second])
    assert registry.add(shop / "first") == first and len(registry.versions()) == 2
    registry.activate(second)
    assert registry.current() == (second, first)
    assert registry.rollback() == first and registry.current() == (first, second)
    with pytest.raises(ArtifactError, match=r"no version 'ffffffffffff'; .*known: "):
        registry.activate("ffffffffffff")
    for name in ("../../etc", "..", "", f"{first}/../{second}"):
        with pytest.raises(ArtifactError, match="no version"):
            registry.activate(name)
    lines = audit(registry)
    assert [line["action"] for line in lines] == ["add", "add", "activate", "add", "activate", "rollback"] + [
        "activate"
    ] * 5
    assert lines[5]["outcome"] == "done" and lines[5]["version"] == first and lines[5]["by"]
    assert lines[6]["outcome"].startswith("refused: ") and lines[6]["version"] == "ffffffffffff"
    assert not list((registry.folder / "versions").glob(".*"))


def test_a_first_version_has_none_before_it(registry: Registry) -> None:
    with pytest.raises(ArtifactError, match="there is no version before"):
        registry.rollback()


def test_a_swap_loses_no_request_and_mixes_no_versions(registry: Registry, second: str) -> None:
    first = registry.current().version
    with make_client([registry.folder]) as client:

        async def swaps() -> list[Any]:
            asked, done = [], asyncio.Event()

            async def ask() -> None:
                while not done.is_set():
                    asked.append(await client.call_async("POST", "/v1/score", BODY))

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            for version in (second, first, second):
                await asyncio.to_thread(registry.activate, version)
                await answers_with(client, version)
            await asyncio.to_thread(registry.rollback)
            await answers_with(client, first)
            done.set()
            await asyncio.gather(*asking)
            return asked

        asked = client.runner.run(swaps())
        assert {reply.status for reply in asked} == {200}
        scores = {(reply.headers["x-model-version"], json.dumps(reply.json["reach"])) for reply in asked}
        assert {version for version, _ in scores} == {first, second} and len(scores) == 2
        text = client.call("GET", "/metrics").body.decode()
        assert 'funnelcast_swaps_total{variant="models"} 4.0' in text
        assert f'funnelcast_model_info{{variant="models",version="{first}"}} 1.0' in text
        assert f'funnelcast_model_info{{variant="models",version="{second}"}} 0.0' in text


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def link(path: Path) -> None:
    moved = path.rename(path.parent.parent / f"{path.name}.moved")
    path.symlink_to(moved)


def golden(bundle: Path) -> None:
    edit_json(bundle / "golden.json", lambda record: record["reach"][3].__setitem__(0, 0.987))
    sign(bundle, "golden.json")


def schema(bundle: Path) -> None:
    edit_json(bundle / "schema.json", lambda record: record["fields"][0].update(size=5))
    sign(bundle, "schema.json")


def write_and_sign(bundle: Path, data: bytes) -> None:
    (bundle / "model.onnx").write_bytes(data)
    sign(bundle, "model.onnx")


BAD: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda bundle: flip(bundle / "model.onnx"),
    "a truncated model": lambda bundle: cut(bundle / "model.onnx"),
    "no manifest": lambda bundle: (bundle / "manifest.json").unlink(),
    "a half copy": lambda bundle: (bundle / "encoders.json").unlink(),
    "another schema": schema,
    "no model at all": lambda bundle: write_and_sign(bundle, b"not a model"),
    "other golden rows": golden,
    "a linked file": lambda bundle: link(bundle / "model.onnx"),
    "another format": lambda bundle: edit_json(bundle / "manifest.json", lambda m: m.update(format=0)),
    "a later format": lambda bundle: edit_json(bundle / "manifest.json", lambda m: m.update(format=2)),
    "an unknown operator": lambda bundle: edit_model(bundle, unknown_operator),
    "weights that are no numbers": lambda bundle: edit_weight(bundle, spoil_weight),
    "a huge model": swell,
    "a path outside": lambda bundle: edit_json(bundle / "manifest.json", lambda m: m["files"].update({"../x": {}})),
    "another bundle": lambda bundle: sign(bundle, "README.md") if (bundle / "README.md").write_text("x") else None,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_version_never_answers(
    registry: Registry, second: str, kind: str, shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(shop / "second", tmp_path / "copy")
    BAD[kind](copy)
    if kind != "another bundle":  # which is a good one of another version
        with pytest.raises(ArtifactError):
            registry.add(copy)
    BAD[kind](registry.folder / "versions" / second)
    before = registry.current()
    with pytest.raises(ArtifactError):
        registry.activate(second)
    assert registry.current() == before and audit(registry)[-1]["outcome"].startswith("refused")
    # Someone writes the pointer by hand; the service looks for itself.
    client = make_client([registry.folder])
    refused: list[str] = []
    follower = Follower(client.service.variants, None, _never, refused.append)
    edit_json(registry.folder / "current.json", lambda pointer: pointer.update(version=second))
    for _ in range(3):
        follower.look("models", registry)
    assert refused == ["models"]  # told once
    assert client.service.variants.all["models"].version == before.version
    client.runner.close()


def _never(*_: object) -> None:
    raise AssertionError("a bad version was taken")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1, "version": "../../x", "former": null}', '{"format": 2}'])
def test_a_damaged_pointer_changes_nothing(registry: Registry, text: str) -> None:
    client = make_client([registry.folder])
    version = client.service.variants.all["models"].version
    (registry.folder / "current.json").write_text(text)
    refused: list[str] = []
    Follower(client.service.variants, None, _never, refused.append).look("models", registry)
    assert refused == ["models"] and client.service.variants.all["models"].version == version
    client.runner.close()


def test_a_linked_version_is_refused(registry: Registry, second: str, tmp_path: Path) -> None:
    path = registry.folder / "versions" / second
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="received a symbolic link"):
        registry.activate(second)


def test_the_commands_say_what_they_did(shop: Path, tmp_path: Path, command: Any) -> None:
    folder = str(tmp_path / "models")
    versions = [command("registry", "add", folder, str(shop / name))[1].strip() for name in ("first", "second")]
    for version in versions:
        assert command("registry", "activate", folder, version) == (0, f"{version} answers\n", "")
    assert command("registry", "rollback", folder)[1] == f"{versions[0]} answers again\n"
    assert sorted(command("registry", "list", folder)[1].split()) == sorted([*versions, "*"])
    assert f"{versions[0]} *" in command("registry", "list", folder)[1]
    code, _, errors = command("registry", "activate", folder, "nothing")
    assert code == 2 and "no version 'nothing'" in errors
    nowhere = str(tmp_path / "modles")
    for words in (["activate", nowhere, versions[0]], ["rollback", nowhere], ["list", nowhere]):
        code, _, errors = command("registry", *words)
        assert code == 2 and "modles: should be a registry, received none" in errors
    assert not (tmp_path / "modles").exists()


def test_a_registry_is_not_made_in_another_folder(shop: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in (shop / "first").iterdir())
    with pytest.raises(ArtifactError, match="should be a new folder, an empty one or a registry, received a bundle"):
        Registry(shop / "first").add(shop / "second")
    assert sorted(path.name for path in (shop / "first").iterdir()) == before
    (tmp_path / "note").touch()
    with pytest.raises(ArtifactError, match="received other files"):
        Registry(tmp_path).add(shop / "second")


def test_adding_again_finds_damage_and_clears_away_what_a_killed_process_left(
    registry: Registry, shop: Path, second: str
) -> None:
    left = registry.folder / "versions" / ".new.0123456789ab.tmp"
    left.mkdir()
    assert registry.add(shop / "second") == second and not left.exists()
    BAD["a flipped bit"](registry.folder / "versions" / second)
    with pytest.raises(ArtifactError, match=f"{second}.*: has changed or is damaged"):
        registry.add(shop / "second")


def test_a_version_that_answers_stays_no_way_back_to_itself(registry: Registry, second: str) -> None:
    first = registry.current().version
    registry.activate(second)
    registry.activate(second)
    assert registry.current() == (second, first)


def test_a_damaged_pointer_is_mended_by_the_next_one(registry: Registry, second: str) -> None:
    (registry.folder / "current.json").write_text("{")
    with pytest.raises(ArtifactError, match="received damaged JSON"):
        registry.rollback()
    registry.activate(second)
    assert registry.current() == (second, None)


def test_a_registry_of_which_nothing_answers_is_not_served(shop: Path, tmp_path: Path) -> None:
    version = Registry(tmp_path / "models").add(shop / "first")
    with pytest.raises(ArtifactError, match=f"models: a registry of which no version answers; .*known: {version}"):
        make_client([tmp_path / "models"])


def test_done_and_not_logged_is_told_from_not_done(
    registry: Registry, shop: Path, second: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = registry.current().version
    left = "could not be written to audit.jsonl: .*No space left"
    with full_disk_for_the_log(monkeypatch):
        with pytest.raises(NotLoggedError, match=f"models: 'activate' of '{second}' is done, but {left}"):
            registry.activate(second)
        assert registry.current() == (second, first)
        with pytest.raises(NotLoggedError, match=f"'rollback' of '{first}' is done"):
            registry.rollback()
        assert registry.current() == (first, second)
        with pytest.raises(NotLoggedError, match=f"'add' of '{second}' is done"):
            registry.add(shop / "second")
        with pytest.raises(
            ArtifactError, match=r"no version 'nothing'.*; nor could this be written to audit"
        ) as caught:
            registry.activate("nothing")
        assert not isinstance(caught.value, NotLoggedError) and registry.current() == (first, second)
    (registry.folder / "audit.jsonl").unlink()
    (registry.folder / "audit.jsonl").mkdir()
    with pytest.raises(ArtifactError, match="the registry could not be changed") as caught:
        registry.activate(second)
    assert not isinstance(caught.value, NotLoggedError) and registry.current() == (first, second)


def test_half_a_line_that_a_crash_left_spoils_no_other(registry: Registry, second: str) -> None:
    path = registry.folder / "audit.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])
    registry.activate(second)
    registry.rollback()
    lines = path.read_text().splitlines()
    assert lines[2] == whole[:-30].splitlines()[2]
    assert [(line["action"], line["outcome"]) for line in map(json.loads, lines[3:])] == [
        ("activate", "done"),
        ("rollback", "done"),
    ]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError])
def test_a_line_always_has_an_outcome(
    registry: Registry, second: str, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise failure

    before = registry.current()
    monkeypatch.setattr(Bundle, "load", fail)
    with pytest.raises(ArtifactError if failure is OSError else failure):
        registry.activate(second)
    assert registry.current() == before
    line = audit(registry)[-1]
    assert (line["version"], line["outcome"]) == (second, f"failed: {failure.__name__}()")
