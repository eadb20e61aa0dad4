"""A part of a raw file in pieces that memory holds: bounded in rows, and in bytes where rows are long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.errors import DataError
from funnelcast.serving.plan import Part, SourceFile, first_line

__all__ = ["PIECE_BYTES", "PIECE_ROWS", "pieces"]

PIECE_ROWS = 65_536  # raw rows encoded and scored at once
PIECE_BYTES = 1 << 24  # the same in Arrow's memory; a single row may be larger
# Rows decoded at once. The footer says how large rows are in the file, not how large in memory: a text that a
# dictionary holds once may be that of every row. Few rows bound this; fewer than these take notable time.
READ_ROWS = 512
BUFFER_BYTES = 1 << 18  # read ahead, a column; otherwise PyArrow holds whole row groups, compressed


def pieces(path: Path, file: SourceFile, part: Part, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Read a part, in order.

    Args:
        path: of the raw file.
        file: what the plan knows of it.
        part: which rows.
        columns: which columns.

    Yields:
        The number of a piece's first row in the file, from 0, and the piece: up to `PIECE_ROWS` and `PIECE_BYTES`.

    Raises:
        DataError: the file changed since the plan was made, or is damaged; the message names file and row group.
    """
    row, size, held = part.first_row, 0, list[pa.RecordBatch]()
    for batch in _batches(path, file, part, columns):
        rows = sum(one.num_rows for one in held)
        if held and (rows + batch.num_rows > PIECE_ROWS or size + batch.nbytes > PIECE_BYTES):
            piece, held, size = pa.Table.from_batches(held), [], 0
            yield row, piece
            del piece  # so that it is gone while the next one is read
            row += rows
        held.append(batch)
        size += batch.nbytes
    if held:
        yield row, pa.Table.from_batches(held)
    file.check_unchanged(path)


def _batches(path: Path, file: SourceFile, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read a few rows at a time, one row group after the other, so that an error can name it."""
    file.check_unchanged(path)
    place = "the footer"
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as reader:
            for group in part.row_groups:
                place = f"row group {group}"
                rows = _rows_at_once(reader.metadata.row_group(group), columns)
                yield from reader.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        file.check_unchanged(path)  # the better reason
        raise DataError(f"{path}: {place} should be readable, but is damaged: {first_line(error)}") from error


def _rows_at_once(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    """Return how many rows to decode at once: fewer than `READ_ROWS` where they are long."""
    roots = tuple(f"{name}." for name in columns)  # a list's path goes on below its name
    chunks = (group.column(number) for number in range(group.num_columns))
    size: int = sum(chunk.total_uncompressed_size for chunk in chunks if f"{chunk.path_in_schema}.".startswith(roots))
    fitting = PIECE_BYTES * int(group.num_rows) // max(size, 1)
    return max(1, min(READ_ROWS, PIECE_ROWS, fitting))
