"""Whatever comes, the service refuses it with a reason or scores all its rows, and serves the next request as before.

Each law is held against a few hundred drawn requests, and against 10,000 in the slow set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.http.conftest import ROW, Client, Reply, make_client
from tests.serving.http.fuzz_requests import (
    Asked,
    admin_requests,
    good_rows,
    infer_requests,
    raw_requests,
    score_requests,
)

from funnelcast.serving.registry import Registry
from funnelcast.serving.traffic import read_traffic, set_shares

ADMIN_KEY = "an-admin-key-of-a-test"
OF_A_VALUE = ("wrong_type", "out_of_range")
# Where a value has no row: it is one of the request, or the whole column is of another kind.
NO_ROW = re.compile(r"of the context|'user' should|of 'columns' should be a list|the datatype of the input")


@pytest.fixture(scope="module")
def fuzzed(first: Path) -> Iterator[Client]:
    limits = {"rows": 50, "body_bytes": 100_000, "deadline_ms": 600_000}
    with make_client([first], limits=limits) as client:
        yield client


def draws(few: int, many: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cases", [few, pytest.param(many, marks=pytest.mark.slow)])


def hold(law: Callable[[Any], None], strategy: st.SearchStrategy[Any], cases: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large]
    settings(max_examples=cases, deadline=None, suppress_health_check=checks)(given(strategy)(law))()


def check_refusal(reply: Reply, asked: Asked) -> None:
    """Refused with a line that names what was wrong."""
    said = reply.json
    detail = said["error"] if isinstance(said["error"], dict) else said | {"message": said["error"]}
    assert said.keys() - {"error", "request_id"} == ({"code", "message", "row", "column"} & said.keys())
    assert re.fullmatch("[a-z_]+", detail["code"]) and "\n" not in detail["message"] and detail["message"]
    assert len(reply.body) < 4000
    if detail["code"] in OF_A_VALUE:
        assert isinstance(detail["column"], str)  # a name may be empty
        assert isinstance(detail["row"], int) or NO_ROW.search(detail["message"]), detail
    if isinstance(detail["row"], int) and detail["code"] in OF_A_VALUE and asked.path.startswith("/v1") and asked.said:
        rows, columns = asked.said.get("candidates"), asked.said.get("columns")
        named = rows[detail["row"]][detail["column"]] if rows else columns[detail["column"]][detail["row"]]
        assert named is not None


def check_scores(reply: Reply, asked: Asked) -> None:
    """As many scores as rows, each a probability, and none rises along the funnel."""
    said = reply.json
    if "outputs" in said:
        for output in said["outputs"]:
            data = np.array(output["data"])
            assert output["shape"] == [len(data)] and np.isfinite(data).all() and (data >= 0).all()
        if asked.said is not None:
            assert {len(output["data"]) for output in said["outputs"]} == {asked.said["inputs"][0]["shape"][0]}
        return
    reach = np.array([said["reach"][step] for step in said["steps"]])
    assert reach.shape == (len(said["steps"]), said["rows"])
    assert (reach >= 0).all() and (reach <= 1).all() and (np.diff(reach, axis=0) <= 0).all()
    if asked.said is not None:
        rows = asked.said.get("candidates")
        assert said["rows"] == (len(next(iter(asked.said["columns"].values()))) if rows is None else len(rows))


@pytest.fixture
def law(fuzzed: Client) -> Callable[[Asked], None]:
    usual = fuzzed.post({"candidates": [ROW]}).json["reach"]

    def hold_it(asked: Asked) -> None:
        reply = fuzzed.call("POST", asked.path, asked.body, **asked.headers)
        assert reply.status == 200 or 400 <= reply.status < 500, reply.body
        assert reply.headers["content-type"] == "application/json"
        assert reply.json["request_id" if "request_id" in reply.json else "id"]
        (check_scores if reply.status == 200 else check_refusal)(reply, asked)
        after = fuzzed.post({"candidates": [ROW]})
        assert after.status == 200 and after.json["reach"] == usual
        assert fuzzed.service.admission.inside == fuzzed.service.admission.held == 0

    return hold_it


@draws(150, 5000)
def test_rows_and_columns(law: Callable[[Asked], None], cases: int) -> None:
    hold(law, score_requests(), cases)


@draws(80, 2000)
def test_bytes(law: Callable[[Asked], None], cases: int) -> None:
    hold(law, raw_requests(), cases)


@draws(80, 2000)
def test_tensors(law: Callable[[Asked], None], cases: int) -> None:
    hold(law, infer_requests(), cases)


@draws(60, 1000)
def test_rows_as_the_page_describes_them_are_scored(fuzzed: Client, cases: int) -> None:
    def scored(rows: list[dict[str, Any]]) -> None:
        reply = fuzzed.post({"candidates": rows})
        assert reply.status == 200, reply.body
        check_scores(reply, Asked("/v1/score", b"", {}, {"candidates": rows}))
        given_names = set().union(*rows)
        assert reply.json.get("missing_columns", []) == [name for name in ROW if name not in given_names]
        alone = [fuzzed.post({"context": row, "candidates": [{}]}).json["reach"]["buy"][0] for row in rows]
        np.testing.assert_allclose(alone, reply.json["reach"]["buy"], rtol=0, atol=1e-6)

    hold(scored, good_rows(), cases)


@pytest.fixture
def governed(shop: Path, tmp_path: Path) -> Iterator[Client]:
    """A service whose registry and traffic file may be changed with a key."""
    registry = Registry(tmp_path / "models")
    registry.activate(registry.add(shop / "first"))
    set_shares(tmp_path / "traffic.json", {"models": 0.5, "second": 0.5}, "spring")
    (tmp_path / "keys").write_text(f"{ADMIN_KEY}\n")
    more = {"ab": {"page": True, "age_seconds": 1e6}, "exposures": {"folder": tmp_path / "log"}}
    settings = {"traffic": tmp_path / "traffic.json", "admin_keys": tmp_path / "keys", **more}
    with make_client([registry.folder, shop / "second"], **settings) as client:
        yield client


@draws(40, 1000)
def test_admin_routes_need_a_key_and_never_fail(governed: Client, tmp_path: Path, cases: int) -> None:
    pointer = (tmp_path / "models" / "current.json").read_bytes()

    def changed(asked: Asked) -> None:
        method = "GET" if asked.path in ("/ab", "/admin/versions") else "POST"
        before = (tmp_path / "traffic.json").read_bytes()
        reply = governed.call(method, asked.path, asked.body, **asked.headers)
        assert 400 <= reply.status < 500
        check_refusal(reply, asked._replace(said=None))
        assert (tmp_path / "traffic.json").read_bytes() == before
        key = {"authorization": f"Bearer {ADMIN_KEY}"}
        reply = governed.call(method, asked.path, asked.body, **asked.headers, **key)
        assert reply.status == 200 or 400 <= reply.status < 500, reply.body
        read_traffic(tmp_path / "traffic.json")
        assert (tmp_path / "models" / "current.json").read_bytes() == pointer
        assert governed.post({"user": "ann", "candidates": [ROW]}).status == 200

    hold(changed, admin_requests(), cases)


def test_laws_can_fail(fuzzed: Client) -> None:
    """A law that takes every answer would say nothing."""
    wrong = json.dumps({"error": {"code": "wrong_type", "message": "no", "row": None, "column": "item"}})
    with pytest.raises(AssertionError):
        check_refusal(Reply(400, {}, wrong.encode()), Asked("/v1/score", b"", {}))
    rising = {"rows": 1, "steps": ["click", "buy"], "reach": {"click": [0.1], "buy": [0.2]}}
    with pytest.raises(AssertionError):
        check_scores(Reply(200, {}, json.dumps(rising).encode()), Asked("/v1/score", b"", {}))
