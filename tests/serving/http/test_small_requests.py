"""A bundle that is ready for small requests encodes as before."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.data.encode import Encoders, Vocabulary
from funnelcast.serving import Bundle


@pytest.mark.parametrize("rows", [0, 1, 50, 400])
def test_kept_dictionaries_give_the_ids_of_hash_tables(shop: Path, first: Path, rows: int) -> None:
    bundle = Bundle.load(first)
    raw = pq.read_table(shop / "rows.parquet").select(bundle.encoders.raw_columns())
    table = pa.concat_tables([bundle.golden.raw, raw.cast(bundle.golden.raw.schema)]).slice(0, rows)
    kept = Encoders.load(first / "encoders.json")
    kept.keep_dictionaries()
    assert kept.encode(table).equals(bundle.encoders.encode(table))


def test_sparse_whole_numbers_and_null_are_found_in_a_dictionary() -> None:
    sparse = Vocabulary("item", "item", pa.array([5, 10**15, -7]))
    assert not sparse.has_table
    values = pa.array([10**15, None, 6, -7, 5])
    before = sparse.apply(values)
    sparse.keep_dictionary()
    assert sparse.apply(values).equals(before) and before.to_pylist() == [3, 0, 1, 4, 2]
