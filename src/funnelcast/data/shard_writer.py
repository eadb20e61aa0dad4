"""Writes the encoded rows of one part as Parquet shards of equal size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.files import sha256

__all__ = ["GROUPS_PER_FILE", "ROWS_PER_GROUP", "ShardWriter"]

ROWS_PER_GROUP = 65_536
GROUPS_PER_FILE = 16


class ShardWriter:
    """Collects encoded rows and writes them in row groups of 65,536, 16 a file.

    Args:
        folder: where the files go; it is made.
        schema: columns of the shards; one without nulls is read faster.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir()
        self._folder = folder
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._groups = 0  # in the open file
        self._rows = 0  # in the open file
        self._files: list[dict[str, Any]] = []

    def append(self, table: pa.Table) -> None:
        """Take rows; full row groups are written at once.

        Args:
            table: rows with the columns of the schema.
        """
        self._waiting.append(table)
        if sum(part.num_rows for part in self._waiting) < ROWS_PER_GROUP:
            return
        rows = pa.concat_tables(self._waiting)
        full = rows.num_rows - rows.num_rows % ROWS_PER_GROUP
        for start in range(0, full, ROWS_PER_GROUP):
            self._write(rows.slice(start, ROWS_PER_GROUP))
        self._waiting = [rows.slice(full)]

    def close(self) -> list[dict[str, Any]]:
        """Write what is left and return the manifest's entries: path, rows, bytes, sha256."""
        rest = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        if rest.num_rows:
            self._write(rest)
        self._finish()
        return self._files

    def abort(self) -> None:
        """Let go of the open file after an error elsewhere."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, group: pa.Table) -> None:
        if self._writer is None:
            # Ids are spread over large vocabularies, so a dictionary per column chunk costs time and saves nothing.
            # LZ4 is as small as Snappy and read several times as fast.
            self._writer = pq.ParquetWriter(
                self._path(), self._schema, compression="lz4", use_dictionary=False, write_statistics=False
            )
        self._writer.write_table(group.combine_chunks().cast(self._schema), row_group_size=ROWS_PER_GROUP)
        self._groups += 1
        self._rows += group.num_rows
        if self._groups == GROUPS_PER_FILE:
            self._finish()

    def _finish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        path = self._path()
        self._files.append(
            {
                "path": f"{self._folder.name}/{path.name}",
                "rows": self._rows,
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
            }
        )
        self._writer, self._groups, self._rows = None, 0, 0

    def _path(self) -> Path:
        return self._folder / f"part-{len(self._files):05d}.parquet"
