"""Health, metadata, metrics, the Open Inference Protocol, and the pages that describe the service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.http.conftest import ROW, Client, make_client

from funnelcast.errors import ArtifactError
from funnelcast.serving.golden import Golden


def test_health(client: Client) -> None:
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/first/ready"):
        assert client.call("GET", path).status == 200, path
    version = client.call("GET", "/v2/models/first").json["versions"][0]
    assert client.call("GET", f"/v2/models/first/versions/{version}/ready").json == {"name": "first", "ready": True}
    assert client.call("GET", "/v2/models/last/ready").status == 404
    assert client.call("GET", f"/v2/models/first/versions/{version}0").status == 404


def test_a_service_that_cannot_reproduce_its_golden_rows_is_never_ready(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_client([first])
    assert other.call("GET", "/readyz").status == other.call("GET", "/v2/health/ready").status == 503
    assert other.call("GET", "/v2/models/first/ready").json["ready"] is False
    early = other.post({"candidates": [ROW]})
    assert early.status == 503 and early.json["error"]["code"] == "not_ready" and early.headers["retry-after"] == "1"

    def fail(*_: object) -> float:
        raise ArtifactError("golden.json: row 3 should have the reach")

    monkeypatch.setattr(Golden, "check", fail)

    async def live() -> int:
        async with other.app.router.lifespan_context(other.app):
            pass
        return (await other.call_async("GET", "/readyz")).status

    assert other.runner.run(live()) == 503
    assert other.call("GET", "/livez").status == 200
    other.runner.close()


def test_metadata_names_inputs_and_outputs(client: Client) -> None:
    assert client.call("GET", "/v2").json["name"] == "funnelcast"
    said = client.call("GET", "/v2/models/first").json
    inputs = {one["name"]: (one["datatype"], one["shape"]) for one in said["inputs"]}
    assert inputs["item"] == ("INT64", [-1]) and inputs["price"] == ("FP64", [-1])
    assert inputs["colour"] == ("BYTES", [-1]) and inputs["tags"] == ("BYTES", [-1, -1])
    assert [one["name"] for one in said["outputs"]] == [
        "reach_click",
        "transition_click",
        "reach_buy",
        "transition_buy",
    ]


def tensors(client: Client, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    inputs = []
    for one in client.call("GET", "/v2/models/first").json["inputs"]:
        data = [row[one["name"]] for row in rows]
        shape = [len(rows)]
        if len(one["shape"]) == 2:
            shape = [len(rows), 3]
            data = [cell + [None] * (3 - len(cell)) for cell in data]
        inputs.append({"name": one["name"], "shape": shape, "datatype": one["datatype"], "data": data})
    return inputs


def test_infer_scores_as_the_other_route_does(client: Client) -> None:
    rows = [ROW, ROW | {"item": 7, "tags": [], "price": None}]
    expected = client.post({"candidates": rows}).json
    inputs = tensors(client, rows)
    version = client.call("GET", "/v2/models/first").json["versions"][0]
    for path in ("/v2/models/first/infer", f"/v2/models/first/versions/{version}/infer"):
        said = client.post({"inputs": inputs, "id": "mine"}, path).json
        assert said["id"] == "mine" and (said["model_name"], said["model_version"]) == ("first", version)
        found = {one["name"]: one["data"] for one in said["outputs"]}
        np.testing.assert_allclose(found["reach_buy"], expected["reach"]["buy"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["transition_buy"], expected["transition"]["buy"], rtol=0, atol=1e-6)
        assert all(one["shape"] == [2] and one["datatype"] == "FP32" for one in said["outputs"])
    flat = [one | {"data": [v for cell in one["data"] for v in cell]} if one["shape"][1:] else one for one in inputs]
    one = client.post({"inputs": flat, "outputs": [{"name": "reach_buy"}]}, "/v2/models/first/infer").json["outputs"]
    assert [part["name"] for part in one] == ["reach_buy"] and one[0]["data"] == found["reach_buy"]


EMPTY: list[list[Any]] = [[], [[], []]]


def test_tensors_without_values_are_empty_lists(client: Client) -> None:
    rows = [ROW | {"tags": [], "sizes": []}] * 2
    inputs = [
        one | ({"shape": [2, 0], "data": data} if one["name"] in ("tags", "sizes") else {})
        for data in EMPTY
        for one in tensors(client, rows)
    ]
    expected = client.post({"candidates": rows}).json["reach"]["buy"]
    for given in (inputs[: len(ROW)], inputs[len(ROW) :]):
        reply = client.post({"inputs": given}, "/v2/models/first/infer")
        assert reply.status == 200, reply.body
        assert {one["name"]: one["data"] for one in reply.json["outputs"]}["reach_buy"] == expected


def metric(client: Client, name: str) -> float:
    text = client.call("GET", "/metrics").body.decode()
    found = re.search(rf"^{re.escape(name)} ([\d.e+-]+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_what_was_asked(client: Client) -> None:
    names = [f'funnelcast_requests_total{{route="/v1/score",status="{status}"}}' for status in (200, 400)]
    names.append('funnelcast_scored_rows_total{variant="first"}')
    before = [metric(client, name) for name in names]
    for _ in range(3):
        client.post({"candidates": [ROW] * 5})
    client.post({"candidates": []})
    assert [metric(client, name) - old for name, old in zip(names, before, strict=True)] == [3, 1, 15]
    text = client.call("GET", "/metrics").body.decode()
    assert 'funnelcast_model_info{variant="first",version=' in text
    assert "funnelcast_requests_inside 0.0" in text


def test_labels_do_not_grow_with_what_clients_send(client: Client) -> None:
    client.call("GET", "/nowhere")
    before = client.call("GET", "/metrics").body.count(b"\n")
    for number in range(20):
        client.call("GET", f"/nowhere/{number}")
        client.call("GET", f"/v2/models/m{number}", x_request_id=f"r{number}")
    assert client.call("GET", "/metrics").body.count(b"\n") - before < 40  # a route's first answer of a status


def test_the_pages_describe_what_is_there(client: Client) -> None:
    said = client.call("GET", "/openapi.json").json
    assert said["openapi"] == "3.1.0"
    version = client.call("GET", "/v2/models/first").json["versions"][0]
    candidate = said["components"]["schemas"]["Request"]["properties"]["context"]["properties"]
    assert [kind["type"] for kind in candidate["item"]["anyOf"]] == ["integer", "null"]
    assert candidate["tags"]["type"] == ["array", "null"]
    for path, methods in said["paths"].items():
        for method in methods:
            reply = client.call(method.upper(), path.replace("{name}", "first").replace("{version}", version))
            assert reply.status not in (404, 405), path
    page = client.call("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert b"http://" not in page.body and b"https://" not in page.body and b"<script" not in page.body
    answer = set(client.post({"candidates": [ROW]}).json)
    assert answer <= set(said["components"]["schemas"]["Answer"]["properties"])


def test_the_example_of_the_page_works(client: Client) -> None:
    import html

    page = client.call("GET", "/docs").body.decode()
    body = html.unescape(page[page.index("\n\n{") : page.index("</pre>")])
    assert client.post(json.loads(body)).status == 200
