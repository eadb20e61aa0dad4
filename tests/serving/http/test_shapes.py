"""A request of a known shape is read as any other, or left to the way of all others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.http.conftest import ROW, Client, make_client

from funnelcast.serving.http import shapes as module
from funnelcast.serving.http.answer import encode_rows
from funnelcast.serving.http.decode import parse_body
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.rows import RawRows, lay_out
from funnelcast.serving.http.scoring import Answered, Asked, Scoring
from funnelcast.serving.http.shapes import Shaped, Shapes
from funnelcast.serving.http.variants import Variant, Variants

SHARED = {name: ROW[name] for name in ("item", "colour", "age", "tags")}
OWN = {name: ROW[name] for name in ROW if name not in SHARED}
LARGEST = 5
Said = Mapping[str, Any]


@pytest.fixture(scope="module")
def variant(shop: Path) -> Variant:
    return Variant.load("first", shop / "first")


def request_of(rows: int = 2, **more: Any) -> dict[str, Any]:
    return {"user": "ann", "context": dict(SHARED), "candidates": [dict(OWN) for _ in range(rows)], **more}


def taught(variant: Variant, said: Said, times: int = 3) -> Shapes:
    """Return decoders that saw a request so many times."""
    known = Shapes(variant.columns.values())
    body = json.dumps(said).encode()
    for _ in range(times):
        assert known.parse(body, largest=LARGEST, strict=False) is None
        parsed = parse_body(body)
        known.learn(parsed, lay_out(parsed, variant.columns, largest=LARGEST, strict=False))
    return known


def read(known: Shapes, said: Said | bytes, *, strict: bool = False) -> Shaped | None:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return known.parse(body, largest=LARGEST, strict=strict)


def raw(variant: Variant, body: bytes) -> RawRows:
    return lay_out(parse_body(body), variant.columns, largest=LARGEST, strict=False).raw(variant.columns)


def test_a_shape_is_known_after_three_requests(variant: Variant) -> None:
    said = request_of()
    assert read(taught(variant, said, times=2), said) is None
    found = read(taught(variant, said), request_of(4, user=7))
    assert found is not None and found.user == 7 and found.laid.rows == 4
    assert read(taught(variant, {"candidates": [ROW]}), {"candidates": [ROW], "context": {}}) is not None
    assert read(taught(variant, said), {"candidates": [ROW]}) is None


OTHERS: dict[str, list[Any]] = {
    "item": [None, 3.0, 2**40, -(2**63), 2**63 - 1, 2**63, 2**70, 1.5, True, "3"],
    "shelf": [None, "s9", "a:b", 7, True, [1], {"a": 1}],
    "fresh": [None, False, "true", 1],
    "price": [None, 3, 1e300, 2**70, "dear", True],
    "age": [None, 18.5, "x"],
    "tags": [None, [], ["b", 7], 3, [[1]]],
    "sizes": [None, [2**63], [3.0, None]],
    "words": [None, "", "x|y|z", 'with "quotes"', "\ud800"],
    "more": [1],
}


_RARELY = st.sampled_from([False] * 7 + [True])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Requests near the shape that is known: values, names, rows and bytes of them are changed."""
    said = request_of(draw(st.integers(0, LARGEST + 1)))
    parts = [said["context"], *said["candidates"]]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(OTHERS)))
        part = draw(st.sampled_from(parts))
        if draw(st.booleans()) or name in part:
            part[name] = draw(st.sampled_from(OTHERS[name]))
        if draw(_RARELY):
            part.pop(name, None)
    said["user"] = draw(st.sampled_from(["a:b", 2**70, 1.5] if draw(_RARELY) else ["ann", 7, None, ""]))
    if draw(_RARELY):
        del said[draw(st.sampled_from(["user", "context", "candidates"]))]
    body = json.dumps(said).encode()
    if draw(_RARELY):  # a name that stands twice, here instead of another or not
        name, other = (draw(st.sampled_from(sorted(OWN))) for _ in range(2))
        body = body.replace(f'"{name}":'.encode(), f'"{other}":'.encode(), 1)
    if draw(_RARELY):
        body = body[: draw(st.integers(0, len(body)))]
    return body


@given(body=bodies())
def test_what_is_read_is_what_others_read(variant: Variant, body: bytes) -> None:
    found = read(_known(variant), body)
    if found is None:
        return  # the general way decides; that much is read at all is shown above and below
    parsed = parse_body(body)
    assert found.user == parsed.user
    assert (found.laid.rows, list(found.laid.missing), list(found.laid.unknown)) == (
        len(parsed.candidates or ()),
        [],
        [],
    )
    try:
        expected = raw(variant, body)
    except RefusalError as error:
        with pytest.raises(RefusalError) as caught:
            found.laid.raw(variant.columns)
        assert (caught.value.code, str(caught.value)) == (error.code, str(error))
        return
    made = found.laid.raw(variant.columns)
    assert np.array_equal(encode_rows(variant, made), encode_rows(variant, expected))
    assert made.table.equals(expected.table)


def _known(variant: Variant) -> Shapes:
    if variant.name not in _KNOWN:
        _KNOWN[variant.name] = taught(variant, request_of())
    shapes = _KNOWN[variant.name]
    assert shapes._known
    for shape in shapes._known:
        shape.credit = 8  # whatever came before, it stays
    return shapes


_KNOWN: dict[str, Shapes] = {}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"shelf": "s1"', '"shelf": "s1", "shelf": "s1"', 1),
        lambda text: text.replace('"shelf": "s1"', '"fresh": true', 1),  # one twice and one not at all
        lambda text: text.replace('"user": "ann"', '"user": "ann", "user": "bob"'),
        lambda text: text.replace('"s1"', '"s:1"', 1),
        lambda text: text.replace('"s1"', "7", 1),  # right, but to be written as text
        lambda text: text.replace('"item": 3', '"item": 3.0'),
        lambda text: text.replace('"item": 3', '"item": 9223372036854775808'),
        lambda text: text.replace('"price"', '"cost"', 1),
        lambda text: text.replace('"candidates"', '"columns"'),
        lambda text: text[:-1],
        lambda text: "[" * 100_000,
        lambda text: "",
    ],
)
def test_what_is_not_surely_of_the_shape_is_left(variant: Variant, change: Any) -> None:
    text = json.dumps(request_of())
    known = taught(variant, request_of())
    assert change(text) != text and read(known, change(text).encode()) is None
    assert read(known, text.encode()) is not None


def test_values_that_are_written_in_several_ways_have_a_shape(variant: Variant) -> None:
    said = request_of(candidates=[OWN | {"shelf": 7, "fresh": True, "price": 3}])
    found = read(taught(variant, said), said)
    assert found is not None
    cells = found.laid.raw(variant.columns).cells
    assert cells is not None
    assert [cells[name] for name in ("shelf", "fresh", "price")] == [["7"], ["true"], [3.0]]


def test_missing_columns_are_named_and_refused_when_strict(variant: Variant) -> None:
    said = request_of()
    del said["context"]["age"]
    known = taught(variant, said)
    found = read(known, said)
    assert found is not None and list(found.laid.missing) == ["age"]
    assert read(known, said, strict=True) is None
    assert read(taught(variant, request_of()), request_of(), strict=True) is not None


@pytest.mark.parametrize(
    "said",
    [
        {"candidates": [{}]},
        {"candidates": [OWN, ROW]},
        {"candidates": [OWN | {"more": 1}]},
        {"candidates": [OWN | {"item": "no number"}]},
        {"columns": {"item": [3]}},
    ],
    ids=["no columns", "rows that differ", "unknown", "wrong", "columns"],
)
def test_what_has_no_shape(variant: Variant, said: Said) -> None:
    assert read(taught(variant, said, times=5), said) is None


def test_a_decoder_of_no_use_is_dropped_and_comes_back_later(variant: Variant) -> None:
    said, other = request_of(), request_of(user="a:b")
    known = taught(variant, said)
    for _ in range(8):
        assert read(known, other) is None
    assert read(known, said) is None
    body = json.dumps(said).encode()
    parsed = parse_body(body)
    for _ in range(6):  # twice as many as the first time
        assert read(known, said) is None
        known.learn(parsed, lay_out(parsed, variant.columns, largest=LARGEST, strict=False))
    assert read(known, said) is not None


def test_few_decoders_and_counts_are_kept(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COUNTED", 4)
    known = Shapes(variant.columns.values())
    names = list(ROW)
    said = [{"candidates": [{name: ROW[name] for name in names[k:]}]} for k in range(len(names) - 1)]
    for _ in range(4):
        for one in said:
            parsed = parse_body(json.dumps(one).encode())
            known.learn(parsed, lay_out(parsed, variant.columns, largest=LARGEST, strict=False))
            assert len(known._counts) <= 4 and len(known._known) <= 2


def test_a_variant_with_other_columns_reads_the_request_itself(variant: Variant) -> None:
    def failed(asked: Asked, answered: Answered, error: Exception) -> None:
        raise AssertionError(error)

    scoring = Scoring(_Only(variant), LARGEST, failed, scores=False, shadowed=False)
    other = taught(variant, request_of())
    asked = Asked.of(json.dumps(request_of()).encode(), "r", False, math.inf, other, LARGEST)
    assert isinstance(asked.parsed, Shaped) and asked.parsed.shapes is not variant.shapes
    plain = Asked.of(asked.body, "r", False, math.inf)
    assert scoring.score(asked).body == scoring.score(plain).body


class _Only(Variants):
    """One variant for all users."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant

    def of(self, user: str | int | None) -> tuple[Variant, str]:
        return self._variant, ""


def test_answers_do_not_change_once_a_shape_is_known(shop: Path) -> None:
    with make_client([shop / "first"]) as client:
        said = request_of(3)
        answers = [_scores(client, said) for _ in range(6)]
        assert all(one == answers[0] for one in answers)
        many = request_of(200)  # through Arrow
        assert _scores(client, many)["reach"]["click"] == [answers[0]["reach"]["click"][0]] * 200


def _scores(client: Client, said: Said) -> Any:
    reply = client.post(said)
    assert reply.status == 200
    return {name: value for name, value in reply.json.items() if name != "request_id"}
