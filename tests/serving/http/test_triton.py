"""The Open Inference Protocol as NVIDIA's client speaks it, with tensors as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tests.serving.http.conftest import ROW
from tests.serving.http.processes import Process, serving
from tritonclient.utils import InferenceServerException

ROWS = [ROW, ROW | {"item": 7, "price": 0.25, "age": -4, "tags": ["c", "ü"], "words": "", "fresh": False}]
TYPES = {"INT64": np.int64, "FP64": np.float64, "BYTES": np.object_}


@pytest.fixture(scope="module")
def service(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("service"), str(first)) as service:
        yield service


@pytest.fixture
def client(service: Process) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        yield client


def tensors(client: Any) -> list[Any]:
    """Every raw column in the type that the metadata name."""
    made = []
    for told in client.get_model_metadata("first")["inputs"]:
        name, datatype = told["name"], told["datatype"]
        values = [row[name] for row in ROWS]
        values = [str(v).lower() if v in (True, False) else v for v in values] if datatype == "BYTES" else values
        data: Any = np.array(values, dtype=TYPES[datatype])
        tensor = triton.InferInput(name, list(data.shape), datatype)
        tensor.set_data_from_numpy(data, binary_data=False)
        made.append(tensor)
    return made


def test_health_and_metadata(client: Any, service: Process) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("first")
    assert not client.is_model_ready("second")
    assert client.get_server_metadata()["name"] == "funnelcast"
    told = client.get_model_metadata("first")
    version = json.loads(service.ask("GET", "/v2/models/first")[2])["versions"][0]
    assert told["versions"] == [version] and client.is_model_ready("first", version)
    assert client.get_model_metadata("first", version) == told
    assert {one["datatype"] for one in told["inputs"]} == set(TYPES)


def test_infer_gives_the_scores_of_the_other_route(client: Any, service: Process) -> None:
    expected = json.loads(service.ask("POST", "/v1/score", json.dumps({"candidates": ROWS}))[2])
    answer = client.infer("first", tensors(client), request_id="mine")
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_version"] == expected["model_version"]
    for kind in ("reach", "transition"):
        for step in expected["steps"]:
            found = answer.as_numpy(f"{kind}_{step}")
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, np.array(expected[kind][step], np.float32))
    wanted = triton.InferRequestedOutput("reach_buy", binary_data=False)
    one = client.infer("first", tensors(client), model_version=expected["model_version"], outputs=[wanted])
    assert [output["name"] for output in one.get_response()["outputs"]] == ["reach_buy"]


def test_refusals_reach_the_caller(client: Any) -> None:
    def refused(*given: Any, **more: Any) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(*given, **more)
        return caught.value.status(), caught.value.message()

    good = tensors(client)
    status, message = refused("second", good)
    assert status == "404" and "no model 'second'; known: first" in message
    assert refused("first", good, model_version="1")[0] == "404"
    status, message = refused("first", good[1:])
    assert status == "400" and "should have 'item'" in message
    wrong = triton.InferInput("item", [2], "FP32")
    wrong.set_data_from_numpy(np.zeros(2, np.float32), binary_data=False)
    status, message = refused("first", [wrong, *good[1:]])
    assert status == "400" and "datatype of the input 'item' should be one of INT8" in message
    status, message = refused("first", good, outputs=[triton.InferRequestedOutput("reach_view", binary_data=False)])
    assert status == "400" and "reach_view" in message
    binary = triton.InferInput("item", [2], "INT64")
    binary.set_data_from_numpy(np.zeros(2, np.int64))
    status, message = refused("first", [binary, *good[1:]])
    assert status == "415" and "should be JSON" in message
    with pytest.raises(InferenceServerException, match="no such route"):
        client.get_model_config("first")  # an extension of Triton's
    assert client.infer("first", good).as_numpy("reach_buy").shape == (2,)
