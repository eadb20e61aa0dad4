"""The OpenAPI document tells the truth: requests are drawn from it, right and wrong, and answers held against it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.openapi.checks import JsonSchemaError
from schemathesis.specs.openapi import checks
from tests.serving.http.conftest import Client, make_client

ALWAYS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.allow_header_conformance,
]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
CASES = [20, pytest.param(100, marks=pytest.mark.slow)]


@pytest.fixture
def document(first: Path) -> Any:
    """Made for each test, since schemathesis ends the service with the test."""
    made = make_client([first], limits={"deadline_ms": 600_000})
    made.runner.close()  # schemathesis has a loop of its own
    made.service.start()  # no request may come before it is ready, which starts beside the loop
    refused = {"expected-statuses": [400, 404, 405, 413, 415]}
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": refused}})
    return schemathesis.openapi.from_asgi("/openapi.json", made.app, config=config)


def hold(operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: GenerationMode, cases: int) -> int:
    """Hold all checks against drawn requests of a route; none is drawn where it takes nothing that could be wrong."""
    # What /v1/score and infer take has laws that no schema tells, such as lists of one length.
    more = [checks.positive_data_acceptance] if operation.method == "get" else []
    held = 0

    @settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def law(case: schemathesis.Case[Any]) -> None:
        nonlocal held
        held += 1
        case.call_and_validate(checks=[*ALWAYS, *more])

    law()
    return held


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_route_is_as_it_is_described(document: Any, mode: GenerationMode, cases: int) -> None:
    held = {}
    for found in document.get_all_operations():
        operation = found.ok()
        takes = operation.body or operation.path_parameters or operation.query
        if mode is GenerationMode.POSITIVE or takes:
            held[operation.label] = hold(operation, mode, cases if takes else 1)
    assert held["POST /v1/score"] >= cases and len(held) >= (14 if mode is GenerationMode.POSITIVE else 7)


def test_a_wrong_description_is_found(document: Any) -> None:
    raw = copy.deepcopy(document.raw_schema)
    raw["components"]["schemas"]["Live"]["properties"]["live"] = {"type": "string"}
    wrong = schemathesis.openapi.from_dict(raw)
    wrong.app = document.app
    with pytest.RaisesGroup(JsonSchemaError):
        hold(wrong["/livez"]["GET"], GenerationMode.POSITIVE, 1)


def check_routes(client: Client) -> set[str]:
    found = {(method, vars(route)["path"]) for route in client.app.routes for method in vars(route)["methods"]}
    routes = {(method.lower(), path) for method, path in found if method != "HEAD"}
    document = client.call("GET", "/openapi.json").json
    assert routes == {(method, path) for path, told in document["paths"].items() for method in told}
    text, known = json.dumps(document), document["components"]["schemas"]
    assert set(re.findall('"#/components/schemas/([A-Za-z]*)"', text)) <= known.keys()
    page = client.call("GET", "/docs").body.decode()
    assert all(f"<code>{path}</code>" in page for _, path in routes)
    return {path for _, path in routes}


def test_the_document_has_every_route(client: Client, first: Path, tmp_path: Path) -> None:
    usual = check_routes(client)
    (tmp_path / "keys").write_text("an-admin-key-of-a-test\n")
    more = {"ab": {"page": True}, "exposures": {"folder": tmp_path / "log"}, "admin_keys": tmp_path / "keys"}
    with make_client([first], **more) as other:
        added = check_routes(other) - usual
    assert "/ab" in added and len(added) == 6 and all(path.startswith(("/ab", "/admin/")) for path in added)
