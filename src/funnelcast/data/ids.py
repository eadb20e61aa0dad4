"""Encoded fields as one matrix of ids, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from funnelcast.arrow import pa
from funnelcast.schema import Schema, field_column

__all__ = ["CACHED_ROWS", "Ids", "ids_matrix"]

# Rows of the ids that stay in a processor's cache while they are filled column by column.
CACHED_ROWS = 8192
Ids = np.ndarray[Any, np.dtype[np.int32]]


def ids_matrix(table: pa.Table, schema: Schema, out: Ids | None = None) -> Ids:
    """Lay the encoded fields of a table out as one matrix.

    Args:
        table: has a column `field.<name>` for every field: int32, or lists of int32 for multi-valued fields.
        schema: the fields.
        out: [B, W] int32 to be overwritten; None for a new one.

    Returns:
        [B, W] int32; the lists of a multi-valued field are padded with 0.
    """
    ids = np.empty((table.num_rows, schema.width), dtype=np.int32) if out is None else out
    single: list[tuple[int, Ids]] = []  # place and ids [B] of each field with one value
    for encoded, start in zip(schema.fields, schema.columns, strict=False):
        chunks = table[field_column(encoded.name)]
        column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()  # the latter copies
        if encoded.max_length == 1 and not pa.types.is_list(column.type):
            single.append((start, column.to_numpy(zero_copy_only=False)))
            continue
        lengths = np.diff(column.offsets.to_numpy())
        inside = np.arange(encoded.max_length) < lengths[:, None]  # [B, max_length]
        ids[:, start : start + encoded.max_length] = 0
        ids[:, start : start + encoded.max_length][inside] = column.flatten().to_numpy(zero_copy_only=False)
    for first in range(0, len(ids), CACHED_ROWS):
        rows = slice(first, first + CACHED_ROWS)
        for start, column in single:
            ids[rows, start] = column[rows]
    return ids
