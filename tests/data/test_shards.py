"""Reading a prepared folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from funnelcast.data.ids import ids_matrix
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError
from funnelcast.schema import Field, Schema, Step

STEP = Step(name="click", reach_rate=0.5, transition_rate=0.5)


def test_ids_matrix_pads_lists_with_zero() -> None:
    schema = Schema(
        dataset="d",
        fields=(Field(name="a", size=9), Field(name="m", size=9, max_length=3), Field(name="b", size=9)),
        steps=(STEP,),
    )
    table = pa.table(
        {
            "field.b": pa.array([7, 8, 5], pa.int32()),
            "field.m": pa.array([[4, 5], [0], [2, 3, 6]], pa.list_(pa.int32())),
            "field.a": pa.array([1, 2, 3], pa.int32()),
        }
    )
    assert ids_matrix(table, schema).tolist() == [[1, 4, 5, 0, 7], [2, 0, 0, 0, 8], [3, 2, 3, 6, 5]]
    # A sliced table has list offsets that do not start at 0.
    assert ids_matrix(table.slice(1), schema).tolist() == [[2, 0, 0, 0, 8], [3, 2, 3, 6, 5]]


def test_multi_valued_field_of_one_position() -> None:
    schema = Schema(dataset="d", fields=(Field(name="m", size=9, max_length=1),), steps=(STEP,))
    table = pa.table({"field.m": pa.array([[4], [0]], pa.list_(pa.int32()))})
    assert ids_matrix(table, schema).tolist() == [[4], [0]]


def test_null_labels_are_unobserved(prepared: Path) -> None:
    data = PreparedData(prepared)
    batch = data.read(data.row_groups(Split.VALID))
    unobserved = ~batch.observed[:, 1].numpy()
    assert 0 < unobserved.sum() < 100
    assert np.all(batch.labels[:, 1].numpy()[unobserved] == 0)
    assert len(batch) == data.rows(Split.VALID) == 300


def test_a_flipped_bit_is_refused(prepared: Path) -> None:
    path = prepared / "valid" / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"part-00000.parquet: has changed or is damaged: sha256 should be"):
        PreparedData(prepared)


def test_a_missing_shard_is_refused(prepared: Path) -> None:
    (prepared / "test" / "part-00000.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"part-00000.parquet: is missing"):
        PreparedData(prepared)


def test_a_folder_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="should be the manifest of a prepared folder, but does not exist"):
        PreparedData(tmp_path)


def test_an_unknown_format_is_refused(prepared: Path) -> None:
    path = prepared / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ArtifactError, match="format should be 1, received 99"):
        PreparedData(prepared)
