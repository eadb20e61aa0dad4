"""A simulated week through a running service is the week of the runs themselves."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.serving.http.processes import Process, serving

from funnelcast.errors import ConfigError
from funnelcast.experiment.served_model import ServedModel
from funnelcast.experiment.simulate import Plan, simulate
from funnelcast.experiment.simulated_world import common_world
from funnelcast.experiment.traffic import Traffic
from funnelcast.export import export_run
from funnelcast.run import Run

from .conftest import STEPS, MakeRun

KEY = "a-key-of-sixteen-or-more"
PLAN = Plan(Traffic(days=2, users=120, candidates=12, seed=3), show=3)


@pytest.fixture(scope="module")
def runs(make_run: MakeRun) -> tuple[Run, Run]:
    return make_run(), make_run("shared_bottom")


@pytest.fixture(scope="module")
def service(runs: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("services")
    for name, run in zip("ab", runs, strict=True):
        export_run(run, "onnx", folder / name)
    (folder / "keys").write_text(f"{KEY}\n")
    bundles = [str(folder / name) for name in "ab"]
    with serving(folder, *bundles, text=f'score_keys = "{folder / "keys"}"\n') as service:
        yield service


def url(service: Process) -> str:
    return f"http://127.0.0.1:{service.port}"


def test_the_week_is_that_of_the_runs(
    runs: tuple[Run, Run], service: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Any
) -> None:
    local = simulate(runs, PLAN)
    steps = runs[0].schema.step_names
    with (
        closing(ServedModel(url(service), "a", steps, KEY)) as base,
        closing(ServedModel(url(service), "b", steps, KEY)) as rival,
    ):
        served = simulate(runs, PLAN, services=(base, rival))
    versions = served.pop("versions")
    assert versions == {"A": base.version, "B": rival.version} and len(set(versions.values())) == 2
    assert json.dumps(served) == json.dumps(local)

    monkeypatch.setenv("FUNNELCAST_SCORE_KEY", KEY)
    words = ["--days", "2", "--users", "120", "--candidates", "12", "--show", "3", "--seed", "3", "--out"]
    places = ["--service", url(service), "--model", "a", "--model", "b"]
    code, _, errors = command("abtest", "simulate", *(str(run.folder) for run in runs), *words, str(tmp_path), *places)
    assert code == 0, errors
    assert json.loads((tmp_path / "abtest.json").read_text())["versions"] == versions


def test_models_in_the_order_of_the_other_runs_are_refused(
    runs: tuple[Run, Run], service: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Any
) -> None:
    monkeypatch.setenv("FUNNELCAST_SCORE_KEY", KEY)
    words = [
        "--days",
        "2",
        "--users",
        "120",
        "--candidates",
        "12",
        "--service",
        url(service),
        "--out",
        str(tmp_path / "o"),
    ]
    for names, received in (("ba", "'b'"), ("aa", "'a'"), ("bb", "'b'")):
        models = [word for name in names for word in ("--model", name)]
        code, _, errors = command("abtest", "simulate", *(str(run.folder) for run in runs), *words, *models)
        assert code == 2 and f"received {received}, which scores as " in errors and errors.count("\n") == 1
        assert not (tmp_path / "o").exists()


def test_many_rows_and_none(service: Process, runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = next(PLAN.traffic.draw(common_world(runs))).features.slice(0, 10)
    with closing(ServedModel(url(service), "a", runs[0].schema.step_names, KEY)) as model:
        _check_parts(model, rows, monkeypatch)


def _check_parts(model: ServedModel, rows: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.reach(rows)
    monkeypatch.setattr("funnelcast.experiment.served_model.ROWS", 3)
    parts = model.reach(rows)
    assert [*parts] == [*whole] == list(STEPS[:2])
    assert all(parts[step] == pytest.approx(whole[step], abs=1e-6) for step in whole)
    assert [len(part) for part in model.reach(rows.slice(0, 0)).values()] == [0, 0]
    with pytest.raises(ConfigError, match=r"reads the column '.*', which the simulated rows do not have"):
        model.reach(pa.table({"nothing": [1]}))


def test_what_is_wrong_is_said(service: Process, runs: tuple[Run, Run], command: Any) -> None:
    steps = runs[0].schema.step_names
    with pytest.raises(ConfigError, match=r"should be like http://127\.0\.0\.1:8000, received 'localhost:80'"):
        ServedModel("localhost:80", "a", steps)
    with pytest.raises(
        ConfigError, match="a service of the Open Inference Protocol should answer, received ConnectionRefusedError"
    ):
        ServedModel("http://127.0.0.1:9", "a", steps)
    with pytest.raises(ConfigError, match=r"/v2/models/c: answered 404: there is no model .*c.*; known: a, b"):
        ServedModel(url(service), "c", steps)
    with pytest.raises(ConfigError, match="model 'a' should give 'reach_pay', received reach_click"):
        ServedModel(url(service), "a", [*steps, "pay"])
    rows = next(PLAN.traffic.draw(common_world(runs))).features.slice(0, 1)
    with pytest.raises(ConfigError, match=r"infer: answered 401: "):
        ServedModel(url(service), "a", steps, "wrong").reach(rows)
    for words in (
        ["--service", "http://h"],
        ["--model", "a", "--model", "b"],
        ["--service", "http://h", "--model", "a"],
    ):
        code, _, errors = command("abtest", "simulate", *(str(run.folder) for run in runs), *words)
        assert code == 2 and "--service should come with two --model, the base first, received" in errors


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Run a server that gives one answer after the other, and the last one for ever; each ends its connection."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


INPUT = {"name": "x", "datatype": "FP64", "shape": [-1]}
METADATA = json.dumps({"versions": ["1"], "inputs": [INPUT], "outputs": [{"name": "reach_click"}]}).encode()
ANSWER = b'{"outputs": [{"name": "reach_click", "data": [0.5, 0.25]}]}'
ROWS = pa.table({"x": [1.0, float("nan")]})


def test_a_connection_that_ended_and_a_full_service_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funnelcast.experiment.served_model._WAITS", (0.0, 0.0, 0.0))
    full = (429, b'{"error": "all places are taken"}')
    with (
        answering((200, METADATA), full, full, (200, ANSWER), full) as (place, asked),
        closing(ServedModel(place, "a", ["click"])) as model,
    ):
        assert model.reach(ROWS)["click"].tolist() == [0.5, 0.25]
        assert asked == ["/v2/models/a", *["/v2/models/a/infer"] * 3]
        with pytest.raises(ConfigError, match="answered 429: all places are taken"):
            model.reach(ROWS)


def test_the_status_of_a_page_is_told() -> None:
    with (
        answering((502, b"<html>bad gateway</html>")) as (place, _),
        pytest.raises(ConfigError, match="answered 502: <html>"),
    ):
        ServedModel(place, "a", ["click"])


def test_values_that_json_cannot_hold_are_refused() -> None:
    with answering((200, METADATA), (200, ANSWER)) as (place, _), closing(ServedModel(place, "a", ["click"])) as model:
        for value in (b"bytes", float("inf")):
            with pytest.raises(ConfigError, match=re.escape(place)):
                model.reach(pa.table({"x": [value]}))


@pytest.mark.parametrize("wrong", ["http://h:99999", "http://[::1", "ftp://h", "http://"])
def test_an_address_that_is_none(wrong: str) -> None:
    with pytest.raises(ConfigError, match="should be like"):
        ServedModel(wrong, "a", ["click"])


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"outputs": 1}', b'{"outputs": [], "inputs": []}'])
def test_another_kind_of_server_is_no_service(body: bytes) -> None:
    with answering((200, body)) as (place, _), pytest.raises(ConfigError, match=re.escape(place)):
        ServedModel(place, "a", ["click"])
