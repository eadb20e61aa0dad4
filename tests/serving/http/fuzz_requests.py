"""Requests that hypothesis draws: good rows, wrong values, broken bytes, odd headers and tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st
from tests.serving.http.conftest import ROW

__all__ = ["Asked", "admin_requests", "good_rows", "infer_requests", "raw_requests", "score_requests"]

SCORE, INFER = "/v1/score", "/v2/models/first/infer"
WHOLE = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=12)
CATEGORY = st.one_of(TEXT, st.sampled_from(["red", "12", "a", "x|y", " b "]), st.booleans(), st.integers(-9, 2**64 - 1))
NUMBER = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**64 - 1))
# What the page says that each column of the shop takes; null is added to all.
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "item": WHOLE | st.integers(0, 30).map(float),
    "shelf": CATEGORY,
    "colour": CATEGORY,
    "fresh": CATEGORY,
    "price": NUMBER,
    "age": NUMBER,
    "tags": st.lists(CATEGORY | st.none(), max_size=6),
    "sizes": st.lists(WHOLE | st.none(), max_size=6),
    "words": CATEGORY,
}
HUGE = [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, -(2**64), 10**400, 1e19, 1e300, 5e-324, -0.0]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(HUGE),
    st.floats(),
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Cc", "So"]), min_size=1, max_size=3),
    st.sampled_from(["NaN", "nan", "Infinity", "-inf", "1e999", "0x10", "1_000", "null", "", "\0", "x" * 3000]),
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
NAMES = st.sampled_from([*ROW]) | TEXT | st.just("\ud800")
HEADERS: dict[str, st.SearchStrategy[str]] = {
    "x_request_id": st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=70),
    # None so short that a good request could come too late.
    "x_deadline_ms": st.sampled_from(["0", "-1", "1e9", "soon", "", "600000", "9" * 30, "\xb2", " 600000"]),
    "content_type": st.sampled_from(
        ["application/json", "Application/JSON ; Charset=UTF-8", "text/json", "", ";;;", "application/json; charset=x"]
    ),
    "content_encoding": st.sampled_from(["identity", "gzip", "", "IDENTITY", "br, gzip", "\xff"]),
    "content_length": st.sampled_from(["0", "-5", "many", "9" * 400, "100001", "\xb2"]),
    "authorization": st.text(st.characters(codec="latin-1"), max_size=20),
    "inference_header_content_length": st.sampled_from(["0", "10", "x"]),
}
QUERIES = [
    "",
    "?",
    "?strict=true",
    "?strict=0",
    "?strict=",
    "?strict=maybe",
    "?strict=1&strict=x",
    "?%ff=%00&a",
    "?&=&",
]


class Asked(NamedTuple):
    """A request; `said` is what its body says, where it is JSON of the right kind."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    said: Any = None


def _mostly(good: st.SearchStrategy[Any], odd: bool) -> st.SearchStrategy[Any]:
    """Values that a column takes, and others where the request may be odd."""
    return st.one_of(good, good, good, st.none(), *([ANYTHING] if odd else []))


def _rows(values: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict(values))


def good_rows() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows that the service takes, any column left out or null."""
    return st.lists(_rows({name: good | st.none() for name, good in GOOD.items()}), min_size=1, max_size=4)


@st.composite
def _bodies(draw: st.DrawFn) -> Any:
    """A body of `/v1/score`, of which one part may be anything."""
    may = draw(st.booleans())
    columns = {name: _mostly(good, may) for name, good in GOOD.items()}
    mixed = _rows(columns)
    odd = st.dictionaries(NAMES, ANYTHING, max_size=2)
    said: dict[str, Any] = {}
    if draw(st.booleans()):
        rows = draw(st.lists(mixed, max_size=5))
        said["candidates"] = [row | draw(odd) if draw(st.integers(0, 9)) == 0 else row for row in rows]
    else:
        count, few = draw(st.integers(0, 4)), st.integers(0, 9)
        names = draw(st.lists(NAMES, unique=True, max_size=5))
        lengths = [count if draw(few) else draw(few) for _ in names]
        said["columns"] = {
            name: draw(st.lists(columns.get(name, ANYTHING), min_size=length, max_size=length))
            for name, length in zip(names, lengths, strict=True)
        }
    if draw(st.booleans()):
        said["context"] = draw(odd)
    if draw(st.booleans()):
        said["user"] = draw(st.one_of(st.none(), TEXT, st.integers(), st.text(min_size=190, max_size=210)))
    if draw(st.integers(0, 19)) == 0:
        said[draw(st.sampled_from(["context", "user", "columns", "candidates"]) | TEXT)] = draw(ANYTHING)
    return said


@st.composite
def score_requests(draw: st.DrawFn) -> Asked:
    """Ask `/v1/score`."""
    said = draw(_bodies()) if draw(st.integers(0, 9)) else draw(ANYTHING)
    headers = draw(st.fixed_dictionaries({}, optional=HEADERS)) if draw(st.integers(0, 4)) == 0 else {}
    path = SCORE + (draw(st.sampled_from(QUERIES)) if draw(st.booleans()) else "")
    return Asked(path, json.dumps(said, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace"), headers, said)


@st.composite
def raw_requests(draw: st.DrawFn) -> Asked:
    """Damage the bytes of a body."""
    said = {"user": "ann", "candidates": draw(good_rows())}
    data = bytearray(json.dumps(said, ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = place + draw(st.integers(0, 3))
        data[place:end] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"[", b":", b",", b"\\u", b"\xef\xbb\xbf", b"1e999"])
        )
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return Asked(draw(st.sampled_from([SCORE, INFER])), bytes(data), {})


@st.composite
def _tensor(draw: st.DrawFn, name: str, rows: int, odd: bool) -> dict[str, Any]:
    several = name in ("tags", "sizes")
    usual = {"item": "INT64", "sizes": "INT64", "price": "FP64", "age": "FP64"}.get(name, "BYTES")
    width = draw(st.integers(0, 3)) if several else 1
    item = {"tags": CATEGORY, "sizes": WHOLE}.get(name, GOOD[name])
    values = _mostly(item, odd)
    data = draw(st.lists(values, min_size=rows * width, max_size=rows * width))
    tensor = {"name": name, "shape": [rows, width] if several else [rows], "datatype": usual, "data": data}
    if odd and draw(st.integers(0, 9)) == 0:
        whole = st.integers(-(2**70), 2**70) | st.integers(0, 4)
        wrong: dict[str, st.SearchStrategy[Any]] = {
            "name": NAMES,
            "shape": st.lists(whole, max_size=3) | ANYTHING,
            "datatype": st.sampled_from(["INT8", "UINT64", "FP16", "FP32", "BOOL", "BYTES", "bytes", ""]),
            "data": ANYTHING,
            "parameters": ANYTHING,
        }
        key = draw(st.sampled_from([*wrong]))
        tensor[key] = draw(wrong[key])
    return tensor


@st.composite
def infer_requests(draw: st.DrawFn) -> Asked:
    """Ask a route of the Open Inference Protocol."""
    rows, odd = draw(st.integers(0, 4)), draw(st.booleans())
    said: dict[str, Any] = {"inputs": [draw(_tensor(name, rows, odd)) for name in draw(st.permutations([*ROW]))]}
    if draw(st.integers(0, 9)) == 0:
        key = draw(st.sampled_from(["id", "outputs", "parameters", "inputs"]))
        said[key] = draw(ANYTHING)
    if draw(st.integers(0, 9)) == 0:
        said["outputs"] = draw(st.lists(st.fixed_dictionaries({"name": st.sampled_from(["reach_buy", "x"])})))
    paths = [INFER] * 8 + ["/v2/models/second/infer", "/v2/models/first/versions/1/infer", "/v2/models/%00/infer"]
    return Asked(draw(st.sampled_from(paths)), json.dumps(said).encode(), {}, said)


@st.composite
def admin_requests(draw: st.DrawFn) -> Asked:
    """Ask a route of admins; no version is named that exists, so that what answers stays."""
    names = st.sampled_from(["models", "second", "first"]) | TEXT
    shares = st.dictionaries(names, st.floats() | st.sampled_from([0, 1, 0.5, -1, 1e308]) | ANYTHING, max_size=3)
    bodies: dict[str, st.SearchStrategy[Any]] = {
        "/admin/traffic": st.fixed_dictionaries({"shares": shares}, optional={"experiment": TEXT | ANYTHING}),
        "/admin/traffic/off": st.fixed_dictionaries({"variant": names | ANYTHING}),
        "/admin/registries/models/activate": st.fixed_dictionaries({"version": TEXT | ANYTHING}),
        "/admin/registries/%2e%2e/activate": st.fixed_dictionaries({"version": TEXT}),
        "/admin/registries/models/rollback": st.just({}),
        "/admin/versions": ANYTHING,
        "/ab": ANYTHING,
    }
    path = draw(st.sampled_from([*bodies]))
    said = draw(bodies[path]) if draw(st.integers(0, 9)) else draw(ANYTHING)
    body = json.dumps(said).encode() if draw(st.integers(0, 9)) else draw(st.binary(max_size=20))
    headers = draw(st.fixed_dictionaries({}, optional=HEADERS)) if draw(st.integers(0, 4)) == 0 else {}
    return Asked(path, body, {name: value for name, value in headers.items() if name != "authorization"}, said)
