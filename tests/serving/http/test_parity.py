"""Served is offline: HTTP, `score` and `predict` give a row one answer, however it comes and whatever stands in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tests.serving.http.conftest import Client, make_client

from funnelcast.serving import Bundle
from funnelcast.serving.http.rows import FEW_ROWS

Scores = NDArray[np.float64]
# Unknown and extreme values of each raw column.
STRANGE: dict[str, list[Any]] = {
    "item": [10**18, -1, 2**63 - 1, -(2**63)],
    "shelf": ["", "never seen", "é\0"],
    "colour": ["12", " red", "blue"],
    "fresh": [None],
    "price": [0.0, -0.0, -7.5, 1e300, 5e-324],
    "age": [-(2**63), 2**63 - 1, 0],
    "tags": [[], ["", None, " a "], ["a", "b", "c", "d", "e"]],
    "sizes": [[], [None, -1, 2**63 - 1], [0, 1, 2, 3]],
    "words": ["", "|", " x |never|y|z"],
}
NAMES = [f"{kind}_{step}" for step in ("click", "buy") for kind in ("reach", "transition")]


@pytest.fixture(scope="module")
def raw(first: Path, shop: Path) -> pa.Table:
    """All rows of the shop, of whose cells a fifth are null, unknown or extreme."""
    rows = pq.read_table(shop / "rows.parquet").select(Bundle.load(first).encoders.raw_columns())
    draw, cells = np.random.default_rng(5), rows.to_pylist()
    for name, strange in STRANGE.items():
        for row, value in zip(cells, itertools.cycle([*strange, None]), strict=False):
            if draw.random() < 0.2:
                row[name] = value
    return pa.Table.from_pylist(cells, schema=rows.schema)


@pytest.fixture(scope="module")
def wide(first: Path) -> Iterator[Client]:
    with make_client([first], limits={"deadline_ms": 600_000}) as client:
        yield client


def ask(client: Client, **said: Any) -> Scores:
    reply = client.post(said)
    assert reply.status == 200, reply.body
    found = reply.json
    return np.array([found[name.partition("_")[0]][name.partition("_")[2]] for name in NAMES]).T


def read(path: Path) -> Scores:
    table = pq.read_table(path)
    return np.stack([table[name].to_numpy() for name in NAMES], 1).astype(np.float64)


def test_all_ways_of_scoring_agree(
    wide: Client, raw: pa.Table, first: Path, shop: Path, tmp_path: Path, command: Any
) -> None:
    pq.write_table(raw, tmp_path / "raw.parquet")
    source = str(tmp_path / "raw.parquet")
    for words in (("predict", str(shop / "run-first"), source, str(tmp_path / "predicted.parquet")),
                  ("score", str(first), source, str(tmp_path / "scored"))):  # fmt: skip
        code, _, errors = command(*words)
        assert code == 0, errors
    predicted, rows = read(tmp_path / "predicted.parquet"), raw.to_pylist()
    assert len(rows) == 400 > FEW_ROWS and len(np.unique(predicted[:, 2])) > 200
    np.testing.assert_allclose(read(tmp_path / "scored"), predicted, rtol=0, atol=1e-6)
    for size in (len(rows), FEW_ROWS + 1, FEW_ROWS, 7):
        found = [ask(wide, candidates=rows[start : start + size]) for start in range(0, len(rows), size)]
        np.testing.assert_allclose(np.concatenate(found), predicted, rtol=0, atol=1e-6)
    alone = [ask(wide, context=row, candidates=[{}]) for row in rows]
    np.testing.assert_allclose(np.concatenate(alone), predicted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [400, 50])
def test_no_order_of_rows_or_columns_matters(wide: Client, raw: pa.Table, size: int) -> None:
    draw, rows = np.random.default_rng(6), raw.to_pylist()[:size]
    expected = ask(wide, candidates=rows)
    for _ in range(3):
        order, names = draw.permutation(size), draw.permutation(raw.column_names).tolist()
        turned = [{name: rows[place][name] for name in names} for place in order]
        np.testing.assert_allclose(ask(wide, candidates=turned), expected[order], rtol=0, atol=1e-6)
        columns = {name: [rows[place][name] for place in order] for name in names}
        np.testing.assert_allclose(ask(wide, columns=columns), expected[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*STRANGE])
def test_few_rows_and_many_are_refused_alike(wide: Client, raw: pa.Table, name: str) -> None:
    """Few rows and many are read by different code."""
    rows = raw.to_pylist()
    odd: list[Any] = [{}, 2**64, [[1]], 1.5, "x", True, [1.5], [2**63], -(2**63) - 1]
    for wrong in odd:
        few, many = (wide.post({"candidates": [*given, {name: wrong}]}) for given in (rows[:1], rows))
        assert few.status == many.status, wrong
        if few.status != 200:
            details = [reply.json["error"] for reply in (few, many)]
            assert [detail.pop("row") for detail in details] == [1, 400]
            assert details[0]["message"].replace("row 1 ", "row 400 ") == details[1]["message"]
