"""How raw files are cut into parts: a function of the files alone, so that a second run makes the same parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.errors import ConfigError, DataError, choices

__all__ = ["PART_ROWS", "Part", "Plan", "SourceFile", "first_line"]

PART_ROWS = 1 << 18  # row groups are put together up to so many rows


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file of raw rows, told from a later one of the same name.

    Args:
        name: its name in the folder.
        bytes: its size.
        modified_ns: when it was last written, in nanoseconds since 1970.
        rows: number of rows.
        footer_sha256: checksum of the footer, which holds places and statistics of all columns.
    """

    # Values that trade places change neither size nor statistics; only the time tells then, short of a second reading
    # of all that was scored. Inode and device are left out: they change when a folder is copied or mounted again,
    # where `cp -p` and `rsync -t` keep the time. A copy that lost it is refused, which costs work but mixes nothing.
    name: str
    bytes: int
    modified_ns: int
    rows: int
    footer_sha256: str

    def check_unchanged(self, path: Path) -> None:
        """Refuse a file that was written again, or taken away, since the plan was made.

        Args:
            path: where it is.

        Raises:
            DataError: it is not the file of the plan.
        """
        wanted = f"{path}: should stay as it was when the command began, but"
        try:
            state = path.stat()
        except OSError as error:
            raise DataError(f"{wanted} cannot be read any more: {error.strerror}") from error
        if (state.st_size, state.st_mtime_ns) != (self.bytes, self.modified_ns):
            raise DataError(f"{wanted} was written again")


@dataclass(frozen=True)
class Part:
    """Rows that become one file.

    Args:
        name: of the file to write.
        source: number of the raw file in the plan.
        row_groups: of that file, in order.
        first_row: number of its first row in that file, from 0.
        rows: number of rows.
    """

    name: str
    source: int
    row_groups: tuple[int, ...]
    first_row: int
    rows: int


@dataclass(frozen=True)
class Plan:
    """What is read and what is written.

    Args:
        folder: of the raw files.
        files: the raw files by name.
        schemas: their columns.
        parts: in the order of files and rows.
    """

    folder: Path
    files: tuple[SourceFile, ...]
    schemas: tuple[pa.Schema, ...]
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)

    @classmethod
    def of(cls, source: Path) -> Plan:
        """Look at the footers of a file, or of all Parquet files of a folder.

        Args:
            source: the file or the folder; folders below it are passed over.

        Raises:
            ConfigError: there is no such file, or the folder has no Parquet file.
            DataError: a file is no Parquet file, or a damaged one.
        """
        paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
        if not paths:
            raise ConfigError(f"{source}: should hold files named *.parquet, received none")
        files: list[SourceFile] = []
        schemas: list[pa.Schema] = []
        parts: list[Part] = []
        for number, path in enumerate(paths):
            file, schema, sizes = _look(path)
            files.append(file)
            schemas.append(schema)
            first = 0
            for groups, rows in _cut(sizes):
                parts.append(Part(f"part-{len(parts):05d}.parquet", number, groups, first, rows))
                first += rows
        if not parts:  # readers of the result see its columns, also where it has no row
            parts.append(Part("part-00000.parquet", 0, (), 0, 0))
        return cls(paths[0].parent, tuple(files), tuple(schemas), tuple(parts))

    def check_columns(self, wanted: Sequence[str], why: str) -> None:
        """Refuse files without a column, before the first row is read.

        Args:
            wanted: names of columns.
            why: who needs them, for the message.

        Raises:
            DataError: a file has none of that name, or several.
        """
        for file, schema in zip(self.files, self.schemas, strict=True):
            for name in wanted:
                if (count := schema.names.count(name)) != 1:
                    received = f"{count} of them" if count else f"none; {choices(schema.names, name)}"
                    path = self.folder / file.name
                    raise DataError(f"{path}: should have one column '{name}' for {why}, received {received}")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values by which two plans can be compared."""
        return {"files": [asdict(file) for file in self.files], "parts": [part.name for part in self.parts]}


def _look(path: Path) -> tuple[SourceFile, pa.Schema, list[int]]:
    """Return what a footer says: the file, its columns, and the rows of every row group."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            metadata = pq.read_metadata(file)
            schema = metadata.schema.to_arrow_schema()
            file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, os.SEEK_END)
            digest = hashlib.sha256(file.read(length)).hexdigest()
    except (OSError, ValueError, pa.ArrowException) as error:
        wanted = f"{path}: should be a Parquet file"
        if isinstance(error, OSError) and error.errno is not None:  # the system's; PyArrow's own have no number
            raise ConfigError(f"{wanted} or a folder of them, but is none: {error}") from error
        raise DataError(f"{wanted}, received another or a damaged one: {first_line(error)}") from error
    found = SourceFile(path.name, state.st_size, state.st_mtime_ns, metadata.num_rows, digest)
    return found, schema, [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]


def first_line(error: Exception) -> str:
    """Return an error's first line, since PyArrow's have several.

    Args:
        error: any error; one without words gives the name of its class.
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def _cut(sizes: Sequence[int]) -> list[tuple[tuple[int, ...], int]]:
    """Put row groups together, in order, up to `PART_ROWS` rows or one group; empty ones are left out."""
    parts: list[tuple[tuple[int, ...], int]] = []
    for number, rows in enumerate(sizes):
        if not rows:
            continue
        if parts and parts[-1][1] + rows <= PART_ROWS:
            parts[-1] = ((*parts[-1][0], number), parts[-1][1] + rows)
        else:
            parts.append(((number,), rows))
    return parts
