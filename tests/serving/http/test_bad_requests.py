"""Wrong requests: each gets a 4xx that says what is wrong and where, and none disturbs the service."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from tests.serving.http.conftest import ROW, Client, make_client

SCORE = "/v1/score"
INFER = "/v2/models/first/infer"


class Bad(NamedTuple):
    """A request and what is said of it."""

    name: str
    body: bytes
    status: int = 400
    code: str = "wrong_type"
    row: int | None = None
    column: str | None = None
    says: str = ""
    path: str = SCORE
    method: str = "POST"
    headers: Mapping[str, str] = MappingProxyType({})


def body(**said: Any) -> bytes:
    return json.dumps(said).encode()


def rows(*changes: dict[str, Any]) -> bytes:
    return body(candidates=[ROW | change for change in changes])


def text(row: str) -> bytes:
    """Two rows, the second of them written by hand."""
    return b'{"candidates": [%s, %s]}' % (json.dumps(ROW).encode(), row.encode())


def columns(**changes: Any) -> bytes:
    return body(columns={name: [value, value] for name, value in ROW.items()} | changes)


NO_JSON = [
    Bad("nothing", b"", code="empty_body", column="body", says="received nothing"),
    Bad("blanks", b" \n\t ", code="empty_body", column="body"),
    Bad("words", b"hello", code="not_json", column="body"),
    Bad("truncated", rows({})[:-9], code="not_json", column="body"),
    Bad("trailing", rows({}) + b"x", code="not_json", column="body"),
    Bad("two documents", rows({}) + rows({}), code="not_json", column="body"),
    Bad("byte order mark", b"\xef\xbb\xbf" + rows({}), code="not_json", column="body"),
    Bad("utf-16", rows({}).decode().encode("utf-16"), code="not_json", column="body"),
    Bad("latin-1", text('{"colour": "gr\xfcn"}').decode().encode("latin-1"), code="not_json", column="body"),
    Bad("null byte", text('{"colour": "\0"}'), code="not_json", column="body"),
    Bad("NaN", text('{"price": NaN}'), code="not_json", column="body"),
    Bad("Infinity", text('{"price": -Infinity}'), code="not_json", column="body"),
    Bad("lone surrogate", text('{"colour": "\\ud800"}'), code="not_json", column="body"),
    Bad("lone surrogate in a key", text('{"\\udc00": 1}'), code="not_json", column="body"),
    Bad("single quotes", b"{'candidates': []}", code="not_json", column="body"),
    Bad("trailing comma", b'{"candidates": [{},]}', code="not_json", column="body"),
    Bad("comment", b'{"candidates": [{}] /* all */}', code="not_json", column="body"),
    Bad("leading zero", text('{"item": 007}'), code="not_json", column="body"),
    Bad("1e999", text('{"price": 1e999}'), code="out_of_range", row=1, column="price"),
    Bad("5,000 digits", text('{"item": %s}' % ("9" * 5000)), code="wrong_shape", row=1, column="body"),
    Bad("deep list", b"[" * 50_000, code="wrong_shape", column="body"),
    Bad("deep value", text('{"x": %s}' % ("[" * 40_000)), code="too_deep", column="body"),
    Bad("gzip", gzip.compress(rows({})), code="not_json", column="body"),
    Bad("parquet", b"PAR1" + bytes(100), code="not_json", column="body"),
]
SHAPES = [
    Bad("a list", b"[]", code="wrong_shape", column="body", says="Expected `object`"),
    Bad("a number", b"7", code="wrong_shape", column="body"),
    Bad("null", b"null", code="wrong_shape", column="body"),
    Bad("an empty object", b"{}", code="wrong_shape", column="candidates", says="received neither"),
    Bad(
        "both forms", body(candidates=[ROW], columns={}), code="wrong_shape", says="received both", column="candidates"
    ),
    Bad("a slip in a key", body(candidate=[ROW]), code="wrong_shape", column="body", says="unknown key 'candidate'"),
    Bad(
        "a key of two lines", body(**{"x\ny" * 50: 1}), code="wrong_shape", column="body", says=r"'x\\nyx\\ny.*\.\.\.'"
    ),
    Bad("candidates null", body(candidates=None), code="wrong_shape", column="body"),
    Bad("candidates an object", body(candidates=ROW), code="wrong_shape", column="body"),
    Bad("a candidate of text", body(candidates=[ROW, "x"]), code="wrong_shape", row=1, column="body"),
    Bad("a candidate of null", body(candidates=[ROW, ROW, None]), code="wrong_shape", row=2, column="body"),
    Bad("a candidate in a list", body(candidates=[[ROW]]), code="wrong_shape", row=0, column="body"),
    Bad("a context in a list", body(context=[ROW], candidates=[{}]), code="wrong_shape", column="body"),
    Bad("a user with a fraction", body(user=1.5, candidates=[ROW]), code="wrong_shape", column="body"),
    Bad("a user in an object", body(user={}, candidates=[ROW]), code="wrong_shape", column="body"),
    Bad("a long user", body(user="u" * 201, candidates=[ROW]), code="out_of_range", column="user", says="200"),
    Bad("no rows", body(candidates=[]), code="no_rows", column="candidates", says="received 0"),
    Bad("no columns", body(columns={}), code="no_rows", column="columns"),
    Bad("empty columns", body(columns={"item": [], "price": []}), code="no_rows", column="columns"),
    Bad("51 rows", body(candidates=[{}] * 51), 413, "too_many_rows", 50, "candidates", "received 51"),
    Bad("51 rows in columns", body(columns={"item": [1] * 51}), 413, "too_many_rows", 50, "columns"),
    Bad("a slip like a place", body(**{"$.candidates[7]": 1}, candidates=[ROW]), code="wrong_shape", column="body"),
    Bad(
        "Infinity behind a slip",
        b'{"item": 1, "candidates": [{"price": Infinity}]}',
        says="unknown key 'item'",
        code="wrong_shape",
        column="body",
    ),
    Bad(
        "1e999 in half a pair",
        b'{"item": 1, "candidates": [{"\\ud800": 1e999}]}',
        code="out_of_range",
        row=0,
        column="\\ud800",
    ),
    Bad("columns in a list", body(columns=[[1]]), code="wrong_shape", column="body"),
    Bad("a column of a number", columns(price=3), column="price", says="should be a list"),
    Bad("a column of text", columns(colour="re"), column="colour", says="should be a list"),
    Bad("a column of null", columns(item=None), column="item"),
    Bad("a short column", columns(age=[1]), code="ragged_columns", row=1, column="age", says="2 rows .*received 1"),
    Bad("a long column", columns(age=[1, 2, 3]), code="ragged_columns", row=2, column="age"),
    Bad("a short unknown column", columns(zone=[1]), code="ragged_columns", row=1, column="zone"),
    Bad("a key twice", text('{"item": 1, "item": 2}'), code="duplicate_column", row=1, column="item"),
    Bad("an escaped key twice", text('{"item": 1, "it\\u0065m": 1}'), code="duplicate_column", row=1, column="item"),
    Bad("an unknown key twice", text('{"a": ":", "a": ":"}'), code="duplicate_column", row=1, column="a"),
    Bad(
        "context twice",
        b'{"context": {}, "candidates": [{}], "context": {}}',
        code="duplicate_column",
        column="context",
    ),
    Bad("candidates twice", b'{"candidates": [{}], "candidates": [{}]}', code="duplicate_column", column="candidates"),
    Bad(
        "a key of the context twice",
        b'{"context": {"item": 1, "item": 1}, "candidates": [{}]}',
        code="duplicate_column",
        column="item",
    ),
    Bad(
        "a key of the columns twice", b'{"columns": {"item": [1], "item": [1]}}', code="duplicate_column", column="item"
    ),
    Bad("in context and rows", body(context={"item": 1}, candidates=[ROW]), code="duplicate_column", column="item"),
    Bad("the empty name in both", body(context={"": 1}, candidates=[{"": 1}, {}]), code="duplicate_column", column=""),
    Bad(
        "another one beside the empty name",
        body(context={"": 1, "item": 1}, candidates=[{"": 1, "item": 2}, {}]),
        code="duplicate_column",
        column="",
    ),
    Bad(
        "in context and columns",
        body(context={"item": 1}, columns={"item": [1]}),
        code="duplicate_column",
        column="item",
    ),
]
WHOLE = [
    ("text", "3", "wrong_type", "whole number from|whole number"),
    ("empty text", "", "wrong_type", "whole number"),
    ("a fraction", 1.5, "wrong_type", "the number 1.5"),
    ("a boolean", True, "wrong_type", "received true"),
    ("a list", [1], "wrong_type", "a list of 1"),
    ("an object", {}, "wrong_type", "an object"),
    ("2^63", 2**63, "out_of_range", "9223372036854775808"),
    ("2^64", 2**64, "out_of_range", "2\\^63-1"),
    ("-2^63-1", -(2**63) - 1, "out_of_range", "-2\\^63"),
    ("a float beyond", 1e19, "wrong_type", "1e\\+19"),
    ("200 digits", 10**200, "out_of_range", r"10000\.\.\.|0000\.\.\."),
]
NUMBER = [
    ("text", "9.5", "wrong_type", "a number or null, received text '9.5'"),
    ("NaN in text", "NaN", "wrong_type", "text"),
    ("a boolean", False, "wrong_type", "received false"),
    ("a list", [9.5], "wrong_type", "list"),
    ("2^64", 2**64, "out_of_range", "18446744073709551616"),
    ("400 digits", 10**400, "out_of_range", "number"),
]
TEXT = [
    ("a fraction", 0.5, "wrong_type", "should be text"),
    ("a list", ["red"], "wrong_type", "a list of 1"),
    ("an object", {"a": 1}, "wrong_type", "an object"),
    ("2^64", 2**64, "out_of_range", "the number"),
    ("a float beyond", 1e300, "wrong_type", "1e\\+300"),
]
SEVERAL = [
    ("text for a list", "tags", "a", "a list of text or null, received text"),
    ("a number for a list", "tags", 1, "a list of text"),
    ("an object for a list", "tags", {"a": 1}, "received an object"),
    ("a list in a list", "tags", [["a"]], "a list of 1"),
    ("a fraction in a list", "tags", [0.5], "0.5"),
    ("text in whole numbers", "sizes", [1, "2"], "a list of whole numbers"),
    ("a fraction in whole numbers", "sizes", [1.5], "1.5"),
    ("a boolean in whole numbers", "sizes", [True], "received true"),
    ("a list for separated text", "words", ["x"], "should be text"),
]
VALUES = [
    Bad(f"{kind}: {name}", rows({}, {}, {column: value}), 400, code, 2, column, says)
    for kind, column, cases in (("whole", "item", WHOLE), ("number", "price", NUMBER), ("text", "colour", TEXT))
    for name, value, code, says in cases
]
VALUES += [
    Bad(name, rows({}, {column: value}), 400, "wrong_type", 1, column, says) for name, column, value, says in SEVERAL
]
VALUES += [
    Bad("2^63 in a list", rows({"sizes": [2**63]}), 400, "out_of_range", 0, "sizes"),
    Bad("in the context", body(context={"item": "x"}, candidates=[{}]), column="item", says="of the context"),
    Bad("in columns", columns(price=[1.0, "x"]), row=1, column="price"),
    Bad("hash of a fraction", rows({"shelf": 2.5}), row=0, column="shelf"),
    Bad("an item where a flag stands", rows({"fresh": 0.25}), row=0, column="fresh"),
    Bad("a megabyte", rows({"item": "x" * 90_000}), row=0, column="item", says=r"xxx\.\.\."),
]
HTTP = [
    Bad("large", b" " * 100_001, 413, "too_large", column="body", says="100,000 bytes"),
    Bad("large by its word", b"{}", 413, "too_large", column="body", headers={"content_length": "40000000"}),
    Bad("huge by its word", b"{}", 413, "too_large", column="body", headers={"content_length": "9" * 400}),
    Bad(
        "form",
        b"a=1",
        415,
        "wrong_content_type",
        headers={"content_type": "application/x-www-form-urlencoded"},
        column="content-type",
    ),
    Bad(
        "plain text", rows({}), 415, "wrong_content_type", headers={"content_type": "text/plain"}, column="content-type"
    ),
    Bad("no type", rows({}), 415, "wrong_content_type", headers={"content_type": ""}, column="content-type"),
    Bad(
        "charset",
        rows({}),
        415,
        "wrong_content_type",
        headers={"content_type": "application/json; charset=utf-16"},
        column="content-type",
    ),
    Bad(
        "bomb",
        gzip.compress(bytes(10**7)),
        415,
        "packed_body",
        headers={"content_encoding": "gzip"},
        column="content-encoding",
    ),
    Bad("brotli", b"x", 415, "packed_body", headers={"content_encoding": "br"}, column="content-encoding"),
    Bad(
        "twice packed", b"x", 415, "packed_body", headers={"content_encoding": "gzip, gzip"}, column="content-encoding"
    ),
    Bad("strict maybe", rows({}), code="wrong_parameter", path=f"{SCORE}?strict=maybe", column="strict"),
    Bad(
        "strict and a slip",
        rows({"prise": 1}),
        code="unknown_column",
        row=0,
        column="prise",
        path=f"{SCORE}?strict=true",
    ),
    Bad(
        "10,000 keys",
        body(candidates=[{f"k{k}": 1 for k in range(5000)}]),
        code="unknown_column",
        row=0,
        column="k0",
        path=f"{SCORE}?strict=true",
    ),
    Bad(
        "a long key",
        body(candidates=[{"k" * 50_000: 1}]),
        code="unknown_column",
        row=0,
        path=f"{SCORE}?strict=true",
        says=r"kkk\.\.\.",
    ),
    Bad("deadline of words", rows({}), code="wrong_header", headers={"x_deadline_ms": "soon"}, column="x-deadline-ms"),
    Bad("deadline 0", rows({}), code="wrong_header", headers={"x_deadline_ms": "0"}, column="x-deadline-ms"),
    Bad("deadline below", rows({}), code="wrong_header", headers={"x_deadline_ms": "-5"}, column="x-deadline-ms"),
    Bad(
        "deadline in other digits",
        rows({}),
        code="wrong_header",
        headers={"x_deadline_ms": "\xb2"},
        column="x-deadline-ms",
    ),
    Bad("GET", b"", 405, "wrong_method", method="GET", column="path"),
    Bad("DELETE", b"", 405, "wrong_method", method="DELETE", column="path"),
    Bad("POST of health", b"", 405, "wrong_method", path="/livez", column="path"),
    Bad("nowhere", b"", 404, "unknown_route", path="/v1/scores", column="path"),
    Bad("up the tree", b"", 404, "unknown_route", path="/v1/../../etc/passwd", method="GET", column="path"),
]


def tensors(**changes: Any) -> bytes:
    inputs = []
    types = {"item": "INT64", "price": "FP64", "age": "INT64", "sizes": "INT64", "fresh": "BOOL"}
    for name, value in ROW.items():
        several = isinstance(value, list)
        said = {"shape": [1, 2] if several else [1], "data": value if several else [value]}
        inputs.append({"name": name, "datatype": types.get(name, "BYTES"), **said} | changes.get(name, {}))
    return body(
        inputs=[tensor for tensor in inputs if tensor["name"]] + changes.get("more", []), **changes.get("top", {})
    )


V2 = [
    Bad("no inputs", b"{}", code="wrong_shape", column="body", says="inputs"),
    Bad("no tensors", body(inputs=[]), code="missing_column", column="item"),
    Bad("a tensor of text", body(inputs=["item"]), code="wrong_shape", column="body"),
    Bad("left out", tensors(price={"name": ""}), code="missing_column", column="price"),
    Bad(
        "unknown",
        tensors(more=[{"name": "zone", "shape": [1], "datatype": "INT64", "data": [1]}]),
        code="unknown_column",
        column="zone",
    ),
    Bad(
        "twice",
        tensors(more=[{"name": "item", "shape": [1], "datatype": "INT64", "data": [1]}]),
        code="duplicate_column",
        column="item",
    ),
    Bad("another type", tensors(item={"datatype": "FP64"}), column="item", says="INT64"),
    Bad("no type at all", tensors(item={"datatype": "LONG"}), column="item", says="received text 'LONG'"),
    Bad("a shape below", tensors(item={"shape": [-1]}), code="wrong_shape", column="item"),
    Bad("three dimensions", tensors(item={"shape": [1, 1, 1]}), code="wrong_shape", column="item", says=r"\[rows\]"),
    Bad("no dimension", tensors(item={"shape": []}), code="wrong_shape", column="item"),
    Bad(
        "a flat list column", tensors(tags={"shape": [2]}), code="wrong_shape", column="tags", says=r"\[rows, values\]"
    ),
    Bad("no rows", tensors(item={"shape": [0], "data": []}), code="no_rows", column="item"),
    Bad("too many rows", tensors(item={"shape": [10**12]}), 413, "too_many_rows", column="item"),
    Bad("wide", tensors(tags={"shape": [1, 10**15]}), code="wrong_shape", row=0, column="tags"),
    Bad(
        "less data", tensors(item={"shape": [2]}), code="wrong_shape", row=1, column="item", says="2 values, received 1"
    ),
    Bad("ragged", tensors(price={"shape": [2], "data": [1.0, 2.0]}), code="ragged_columns", row=1, column="price"),
    Bad("a value", tensors(item={"data": ["x"]}), row=0, column="item"),
    Bad("a boolean for a number", tensors(price={"data": [True]}), row=0, column="price"),
    Bad(
        "an output twice",
        tensors(top={"outputs": [{"name": "reach_buy"}, {"name": "reach_click"}, {"name": "reach_buy"}]}),
        code="duplicate_output",
        column="reach_buy",
        says="stand once",
    ),
    Bad(
        "an output",
        tensors(top={"outputs": [{"name": "reach_view"}]}),
        code="unknown_output",
        column="reach_view",
        says="reach_click",
    ),
    Bad("binary", tensors(), 415, "no_extension", headers={"inference_header_content_length": "10"}),
    Bad(
        "a shape of many digits",
        tensors(tags={"shape": [1, int("9" * 4000)]}),
        code="wrong_shape",
        column="tags",
        says="the shape of",
    ),
    Bad("another model", tensors(), 404, "unknown_model", path="/v2/models/second/infer", says="known: first"),
    Bad("a path for a model", tensors(), 404, "unknown_model", path="/v2/models/..%2f..%2fetc/infer"),
    Bad("another version", tensors(), 404, "unknown_version", path="/v2/models/first/versions/1/infer"),
    Bad("a model's wrong method", b"", 405, "wrong_method", path="/v2/models/first", column="path"),
]
V2 = [bad if bad.path != SCORE else bad._replace(path=INFER) for bad in V2]
ALL = [*NO_JSON, *SHAPES, *VALUES, *HTTP, *V2]


def test_there_are_many() -> None:
    assert len(ALL) >= 120


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: f"{bad.path.split('/')[1]} {bad.name}")
def test_a_wrong_request_is_told_what_is_wrong(client: Client, bad: Bad) -> None:
    reply = client.call(bad.method, bad.path, bad.body, **bad.headers)
    said = reply.json
    detail = said["error"] if isinstance(said["error"], dict) else said | {"message": said["error"]}
    assert (reply.status, detail["code"]) == (bad.status, bad.code), detail
    assert detail["row"] == bad.row, detail
    if bad.column is not None:
        assert detail["column"] == bad.column, detail
    assert re.search(bad.says, detail["message"]), detail["message"]
    assert "\n" not in detail["message"] and len(reply.body) < 1500
    assert said["request_id"] == reply.headers["x-request-id"]


def test_a_million_rows_and_forty_megabytes_are_refused(first: Path) -> None:
    def in_pieces() -> Any:
        left = iter(range(40))

        async def receive() -> Any:
            return {"type": "http.request", "body": bytes(1 << 20), "more_body": next(left) < 39}

        return receive

    with make_client([first]) as client:
        many = client.call("POST", SCORE, b'{"candidates": [%s{}]}' % (b"{}," * (10**6 - 1)))
        assert (many.status, many.json["error"]["code"]) == (413, "too_many_rows")
        large = client.runner.run(client.call_async("POST", SCORE, pieces=in_pieces))
        assert (large.status, large.json["error"]["code"]) == (413, "too_large")
        assert client.service.admission.held == 0


def test_the_service_still_answers_afterwards(client: Client) -> None:
    assert client.post({"candidates": [ROW]}).status == 200
    assert client.service.admission.inside == client.service.admission.held == 0
