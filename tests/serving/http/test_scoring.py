"""Small requests that come together share a call of the model, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.http.conftest import ROW, Client, make_client

from funnelcast.data.encode_few import FewRows
from funnelcast.errors import ArtifactError
from funnelcast.serving.bundle import Bundle
from funnelcast.serving.http.answer import encode_rows
from funnelcast.serving.http.decode import parse_body
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.rows import raw_rows
from funnelcast.serving.http.scoring import Answered, Asked
from funnelcast.serving.scorer import Scored

USERS = ("ann", "bob", "carl", "dora", "emil", "fay")


def asked(said: dict[str, Any], request_id: str = "r", *, strict: bool = False) -> Asked:
    return Asked.of(json.dumps(said).encode(), request_id, strict, math.inf)


@pytest.fixture(scope="module")
def pair(shop: Path) -> Iterator[Client]:
    with make_client([shop / "first", shop / "second"], exposures={"scores": True}) as client:
        yield client


def counted(monkeypatch: pytest.MonkeyPatch, fails: Any = None) -> list[tuple[str, int]]:
    """Note version and rows of each call; `fails` decides by the ids which of them raise."""
    calls, score = [], Bundle.score_ids

    def note(self: Bundle, ids: Any) -> Scored:
        calls.append((self.version, len(ids)))
        if fails is not None and fails(ids):
            raise ArtifactError("reach of row 0 should be finite, received nan")
        return score(self, ids)

    monkeypatch.setattr(Bundle, "score_ids", note)
    return calls


def said(outcome: Answered | Exception) -> Any:
    assert isinstance(outcome, Answered)
    return json.loads(outcome.body)


rows = st.builds(lambda item, price: ROW | {"item": item, "price": price}, st.integers(0, 40), st.floats(0, 1e6))
taken: dict[str, list[Any]] = {
    "item": [None, 3.0, 2**40],
    "shelf": [None, 7, True, "s9"],
    "price": [None, 3],
    "tags": [None, [], ["b", 7]],
}
changes = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in taken.items()})
wrong = st.sampled_from([{"price": "dear"}, {"item": 1.5}, {"tags": 3}, {"shelf": [1]}, {"item": 2**70}, {"more": 1}])
one_row = st.builds(lambda row, change: row | change, rows, changes)
wrong_row = st.builds(lambda row, change: {"candidates": [row | change]}, one_row, wrong)


def parts(row: dict[str, Any], count: int) -> dict[str, Any]:
    """Put the first columns of a row into the context."""
    names = list(row)
    return {"context": {name: row[name] for name in names[:count]}, "candidates": [{n: row[n] for n in names[count:]}]}


bodies = st.one_of(
    st.builds(lambda many: {"candidates": many}, st.lists(rows, max_size=4)),
    st.builds(lambda row: {"candidates": [row]}, one_row),
    st.builds(parts, one_row, st.integers(0, len(ROW))),
    st.builds(lambda row: {"columns": {name: [value] for name, value in row.items()}}, one_row),
)


few_wrong = st.builds(
    lambda some, odd: odd + some,
    st.lists(st.tuples(st.sampled_from(USERS), bodies, st.booleans()), max_size=12),
    st.lists(st.tuples(st.sampled_from(USERS), wrong_row, st.booleans()), max_size=1),
)


@given(few_wrong)
def test_together_as_alone(pair: Client, drawn: list[tuple[str, dict[str, Any], bool]]) -> None:
    """Whatever comes together, each gets what it would get alone: its variant's scores, or its own refusal."""
    scoring = pair.service.scoring
    requests = [asked({"user": user} | body, f"r{k}", strict=strict) for k, (user, body, strict) in enumerate(drawn)]
    for request, outcome in zip(requests, scoring.score_all(requests), strict=True):
        try:
            alone = scoring.score(request)
        except RefusalError as error:
            assert isinstance(outcome, RefusalError) and outcome.to_json() == error.to_json()
            continue
        assert isinstance(outcome, Answered)
        assert (outcome.variant, outcome.user, outcome.rows) == (alone.variant, alone.user, request.rows)
        np.testing.assert_allclose(outcome.scores, alone.scores, rtol=0, atol=1e-6)
        found, wanted = said(outcome), said(alone)
        for name in ("reach", "transition"):
            for step, values in wanted.pop(name).items():
                np.testing.assert_allclose(found[name][step], values, rtol=0, atol=1e-6)
            del found[name]
        assert found == wanted and found["request_id"] == request.request_id


def test_a_call_a_variant_however_many_ask(pair: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ROW | {"item": item} for item in range(20)]
    requests = [asked({"user": user, "candidates": rows[k : k + 2]}) for k, user in enumerate(USERS)]
    calls = counted(monkeypatch)
    outcomes = pair.service.scoring.score_all(requests)
    versions = [outcome.variant.version for outcome in outcomes if isinstance(outcome, Answered)]
    assert sorted(calls) == sorted((version, 2 * versions.count(version)) for version in set(versions))
    assert len(set(versions)) == 2 and len(versions) == len(USERS)


def test_requests_of_a_row_are_encoded_together(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, ids = [], FewRows.ids
    good, bad = asked({"candidates": [ROW]}), asked({"candidates": [ROW | {"price": "dear"}]})
    pair_of_rows = asked({"context": {"age": 31}, "candidates": [{"item": 3}, {"item": 4}]})

    def note(self: FewRows, cells: Any) -> Any:
        encoded.append(len(cells["item"]))
        return ids(self, cells)

    with make_client([first]) as client:
        monkeypatch.setattr(FewRows, "ids", note)
        scoring = client.service.scoring
        assert all(isinstance(one, Answered) for one in scoring.score_all([good, pair_of_rows, good, good]))
        assert encoded == [3, 2]
        encoded.clear()
        outcomes = scoring.score_all([good, bad, good])  # each by itself, to find the wrong one
        assert [type(one) for one in outcomes] == [Answered, RefusalError, Answered] and encoded == [1, 1]


def test_what_fails_for_one_is_told_of_one(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = FewRows.ids

    def fail(self: FewRows, cells: Any) -> Any:
        if 7 in cells["item"]:
            raise MemoryError
        return ids(self, cells)

    with make_client([first]) as client:
        monkeypatch.setattr(FewRows, "ids", fail)
        good, bad = asked({"candidates": [ROW]}), asked({"candidates": [ROW | {"item": 7}]})
        outcomes = client.service.scoring.score_all([good, bad, good])
        assert [type(one) for one in outcomes] == [Answered, MemoryError, Answered]
        assert client.service.metrics.sums("funnelcast_failed_scores_total", "variant") == {"first": 1}


def test_a_refused_request_takes_none_with_it(pair: Client) -> None:
    good = asked({"user": "ann", "candidates": [ROW]})
    bad = asked({"user": "ann", "candidates": [ROW | {"price": "dear"}]})
    strict = asked({"user": "ann", "candidates": [ROW | {"more": 1}]}, strict=True)
    nobody = asked({"candidates": [ROW]})
    outcomes = pair.service.scoring.score_all([bad, good, strict, nobody, good])
    codes = [outcome.code if isinstance(outcome, RefusalError) else None for outcome in outcomes]
    assert codes == ["wrong_type", None, "unknown_column", "missing_user", None]
    assert said(outcomes[1])["reach"] == said(outcomes[4])["reach"]


def test_a_call_that_fails_is_made_again_for_each_alone(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_client([first]) as client:
        service = client.service
        scoring, metrics, variant = service.scoring, service.metrics, service.variants.named("first")
        good, bad = asked({"candidates": [ROW]}), asked({"candidates": [ROW | {"item": 7}]})
        wrong = encode_rows(variant, raw_rows(parse_body(bad.body), variant.columns, largest=1, strict=False))
        calls = counted(monkeypatch, lambda ids: (ids == wrong).all(1).any())
        outcomes = scoring.score_all([good, bad, good])
        assert [rows for _, rows in calls] == [3, 1, 1, 1]
        assert [type(outcome) for outcome in outcomes] == [Answered, ArtifactError, Answered]
        assert metrics.sums("funnelcast_failed_scores_total", "variant") == {"first": 1}
        with pytest.raises(ArtifactError, match="row 0 should be finite"):
            scoring.score(bad)
