"""The Kubernetes example of the page: it parses, and what it names is what the service has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.serving.http.conftest import Client

from funnelcast.cli import app
from funnelcast.serving.http.settings import Settings

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """The documents of the example by their kind."""
    block = re.search(r"<!-- kubernetes -->\n```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    found = list(yaml.safe_load_all(block[1]))
    assert [one["kind"] for one in found] == ["ConfigMap", "Deployment", "Service"]
    return {one["kind"]: one for one in found}


@pytest.fixture(scope="module")
def settings(parts: dict[str, Any]) -> Settings:
    """The settings file within the example."""
    return Settings.model_validate(tomllib.loads(parts["ConfigMap"]["data"]["serve.toml"]))


def test_probes_and_ports_are_those_of_the_service(parts: dict[str, Any], settings: Settings, client: Client) -> None:
    pod = parts["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert client.call("GET", asked["path"]).status == 200 and asked["port"] == "http"
    assert container["ports"] == [{"name": "http", "containerPort": settings.server.port}]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(settings.server.port)
    assert settings.server.host == "0.0.0.0"  # a probe does not come from this machine
    labels = pod["metadata"]["labels"]
    assert parts["Service"]["spec"]["selector"] == labels == parts["Deployment"]["spec"]["selector"]["matchLabels"]
    assert parts["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_there_is_time_to_answer_what_was_accepted(parts: dict[str, Any], settings: Settings) -> None:
    pod = parts["Deployment"]["spec"]["template"]["spec"]
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause + settings.server.drain_seconds + 10


def test_every_path_is_on_a_volume_that_is_there(parts: dict[str, Any], settings: Settings) -> None:
    pod = parts["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    command = container["command"]
    assert command[:2] == ["funnelcast", "serve"] and command[3] == "--config" and command[4] in mounts
    assert settings.exposures.folder is not None and str(settings.exposures.folder) in mounts
    for path in (settings.score_keys, settings.admin_keys):
        assert path is not None and str(path.parent) in mounts
    assert str(Path(command[2]).parent) in mounts and container["securityContext"]["readOnlyRootFilesystem"]
    given = typer.main.get_command(app).get_command(None, command[1]).make_context(command[1], command[2:]).params  # type: ignore[attr-defined]
    assert given["bundles"] == [Path(command[2])] and given["config"] == Path(command[4])
