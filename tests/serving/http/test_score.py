"""What the service answers is what the bundle and the run say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.serving.http.conftest import ROW, Client

from funnelcast.data.encode_few import Repeated
from funnelcast.predict import predict_file
from funnelcast.run import Run
from funnelcast.serving import Bundle
from funnelcast.serving.http.columns import raw_columns
from funnelcast.serving.http.decode import Request
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.rows import raw_rows


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def reach_of(said: Any) -> Any:
    return np.array([said["reach"][step] for step in said["steps"]]).T


@pytest.fixture(scope="module")
def raw(first: Path, shop: Path) -> pa.Table:
    """Usual rows, and the golden ones with nulls, unknown and extreme values."""
    bundle = Bundle.load(first)
    return pq.read_table(shop / "rows.parquet").select(bundle.encoders.raw_columns()).slice(300, 40)


def test_served_is_what_the_bundle_and_the_run_say(
    client: Client, raw: pa.Table, first: Path, first_run: Run, shop: Path, tmp_path: Path
) -> None:
    reply = client.post({"candidates": rows_of(raw)})
    assert reply.status == 200
    said = reply.json
    bundle = Bundle.load(first)
    scored = bundle.score(raw)
    np.testing.assert_allclose(reach_of(said), scored.reach, rtol=0, atol=1e-6)
    transition = np.array([said["transition"][step] for step in said["steps"]]).T
    np.testing.assert_allclose(transition, scored.transition, rtol=0, atol=1e-6)
    assert (np.diff(reach_of(said), axis=1) <= 0).all()
    assert said["steps"] == ["click", "buy"] and said["rows"] == 40 and said["calibrated"]
    assert said["model_version"] == bundle.version == reply.headers["x-model-version"]
    pq.write_table(raw, tmp_path / "raw.parquet")
    predict_file(first_run, tmp_path / "raw.parquet", tmp_path / "scored.parquet")
    predicted = pq.read_table(tmp_path / "scored.parquet")
    np.testing.assert_allclose(reach_of(said)[:, 1], predicted["reach_buy"].to_numpy(), rtol=0, atol=1e-6)


def test_alone_in_a_batch_in_columns_and_in_any_order_the_scores_are_the_same(client: Client, raw: pa.Table) -> None:
    rows = rows_of(raw)
    together = reach_of(client.post({"candidates": rows}).json)
    turned = [dict(reversed(row.items())) for row in rows]
    np.testing.assert_allclose(reach_of(client.post({"candidates": turned}).json), together, rtol=0, atol=1e-6)
    columns = {name: [row[name] for row in rows] for name in reversed(raw.column_names)}
    np.testing.assert_allclose(reach_of(client.post({"columns": columns}).json), together, rtol=0, atol=1e-6)
    for number in (0, 7, 39):
        alone = client.post({"context": rows[number], "candidates": [{}]}).json
        np.testing.assert_allclose(reach_of(alone)[0], together[number], rtol=0, atol=1e-6)
        assert "missing_columns" not in alone


def test_golden_rows_through_json_have_their_scores(client: Client, first: Path) -> None:
    bundle = Bundle.load(first)
    raw = bundle.golden.raw
    said = client.post({"candidates": rows_of(raw)}).json
    np.testing.assert_allclose(reach_of(said), bundle.golden.scored.reach[: raw.num_rows], rtol=0, atol=1e-5)


def test_names_that_nobody_reads_are_not_looked_for_in_all_rows(first: Path) -> None:
    class Counting(dict[str, Any]):
        looks = 0

        def get(self, name: str, default: Any = None) -> Any:
            Counting.looks += 1
            return super().get(name, default)

    columns = raw_columns(Bundle.load(first).encoders)
    rows = [Counting(ROW | {f"k{number}": 1 for number in range(1000)}), *(Counting() for _ in range(99))]
    given = raw_rows(Request(None, {}, rows, None), columns, largest=100, strict=False)
    assert (
        0 < Counting.looks <= 100 * len(columns) and sorted(given.unknown) == sorted(f"k{n}" for n in range(1000))[:8]
    )


def test_a_long_context_is_not_written_once_a_row(client: Client, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, rows = raw_columns(Bundle.load(first).encoders), 1000
    long = {"shelf": "x" * 200_000, "tags": ["y"] * 100_000}
    given = raw_rows(Request(None, long, [{}] * rows, None), columns, largest=rows, strict=False)
    assert given.cells is not None and given.cells["shelf"] == Repeated("x" * 200_000, rows)
    with pytest.raises(RefusalError, match=r"the context should have at most 16,777,216 bytes, once a row, received"):
        given.table  # noqa: B018
    few = raw_rows(Request(None, {"shelf": "x"}, [{}] * rows, None), columns, largest=rows, strict=False)
    assert few.cells is None and few.table.num_rows == rows
    alone = client.post({"context": {"shelf": "x" * 40_000}, "candidates": [{}]}).json
    many = client.post({"context": {"shelf": "x" * 40_000}, "candidates": [{}] * 50}).json
    assert reach_of(many)[49] == pytest.approx(reach_of(alone)[0], abs=1e-6)


def test_null_missing_and_unknown_have_their_own_ids(client: Client) -> None:
    def score(**changes: Any) -> Any:
        row = {name: value for name, value in {**ROW, **changes}.items() if value != "absent"}
        return reach_of(client.post({"candidates": [ROW, row]}).json)[1]

    for name in ROW:
        np.testing.assert_array_equal(score(**{name: None}), score(**{name: "absent"}))
    unknown = score(colour="never seen")
    np.testing.assert_array_equal(unknown, score(colour="nor this"))
    assert (unknown != score(colour=None)).any() and (unknown != score()).any()
    np.testing.assert_array_equal(score(item=10**18), score(item=-5))


def test_other_spellings_of_a_value_are_the_value(client: Client) -> None:
    spelt = [ROW, ROW | {"item": 3.0}, ROW | {"fresh": "true"}, ROW | {"fresh": 1}, ROW | {"age": 31.0}]
    spelt += [ROW | {"tags": ["a", None, " b "]}, ROW | {"words": "x| y |"}]
    scores = reach_of(client.post({"candidates": spelt}).json)
    np.testing.assert_array_equal(scores, np.repeat(scores[:1], len(spelt), axis=0))
    twelve = reach_of(client.post({"candidates": [ROW | {"colour": "12"}, ROW | {"colour": 12}]}).json)
    np.testing.assert_array_equal(twelve[0], twelve[1])


def test_what_is_missing_or_unknown_everywhere_is_said(client: Client) -> None:
    row = {name: value for name, value in ROW.items() if name != "price"} | {"prise": 3}
    said = client.post({"candidates": [row], "context": {"zone": {"deep": [1]}}}).json
    assert said["missing_columns"] == ["price"] and said["unknown_columns"] == ["prise", "zone"]
    strict = client.post({"candidates": [ROW, row]}, "/v1/score?strict=true")
    assert strict.status == 400
    assert strict.json["error"]["code"] == "unknown_column"
    assert (strict.json["error"]["row"], strict.json["error"]["column"]) == (1, "prise")
    assert client.post({"candidates": [ROW]}, "/v1/score?strict=1").status == 200
    del row["prise"]
    left = client.post({"candidates": [row]}, "/v1/score?strict=true").json["error"]
    assert left["code"] == "missing_column" and left["column"] == "price"


def test_colons_in_text_are_no_second_key(client: Client) -> None:
    assert client.post({"candidates": [ROW | {"colour": "a:b::c", "x:y": 1}]}).status == 200
    body = json.dumps({"candidates": [ROW]}).replace(":", "  :\n ").encode()
    assert client.call("POST", "/v1/score", body).status == 200


def test_a_request_id_comes_back_if_it_is_harmless(client: Client) -> None:
    given = client.post({"candidates": [ROW]}, x_request_id="abc-1")
    assert given.json["request_id"] == given.headers["x-request-id"] == "abc-1"
    made = client.post({"candidates": [ROW]}, x_request_id='a"b\n')
    assert made.headers["x-request-id"] == made.json["request_id"] and len(made.json["request_id"]) == 32
