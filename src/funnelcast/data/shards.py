"""A prepared folder: its schema, its manifest, and its rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.data.ids import Ids, ids_matrix
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError
from funnelcast.files import check_sha256, read_json
from funnelcast.schema import (
    USER_COLUMN,
    WEIGHT_COLUMN,
    Schema,
    field_column,
    label_column,
    true_potential_column,
    true_reach_column,
    true_transition_column,
    value_column,
)

__all__ = ["PreparedData", "RowGroup"]

FORMAT = 1


@dataclass(frozen=True)
class RowGroup:
    """A run of rows that is read at once.

    Args:
        path: the shard.
        index: number of the row group in its shard.
        rows: rows in it.
        metadata: the shard's footer, so that it is read once and not for each of its row groups.
    """

    path: Path
    index: int
    rows: int
    metadata: pq.FileMetaData = field(repr=False, compare=False)


class PreparedData:
    """A folder that `prepare` wrote.

    Args:
        folder: the prepared folder.
        verify: compare every file with its checksum in the manifest.

    Raises:
        ArtifactError: the folder is not a prepared one, is of an unknown format, or a file is missing or damaged.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.folder = folder
        kind = "the manifest of a prepared folder"
        self.manifest = read_json(folder / "manifest.json", kind, "splits", "files", version=FORMAT)
        if verify:
            checksums = dict(self.manifest["files"])
            checksums |= {f["path"]: f["sha256"] for s in self.manifest["splits"].values() for f in s["files"]}
            for name, expected in checksums.items():
                check_sha256(folder / name, expected)
        self.schema = Schema.load(folder / "schema.json")

    def rows(self, split: Split) -> int:
        """Count the rows of a split."""
        return int(self.manifest["splits"][split.value]["rows"])

    def row_groups(self, split: Split) -> list[RowGroup]:
        """List the row groups of a split in order.

        Args:
            split: the part.

        Raises:
            ArtifactError: a shard is missing or damaged.
        """
        groups = []
        for file in self.manifest["splits"][split.value]["files"]:
            path = self.folder / file["path"]
            try:
                metadata = pq.read_metadata(path)
            except (OSError, pa.ArrowException) as error:
                raise ArtifactError(f"{path}: is missing or damaged: {error}") from error
            groups += [
                RowGroup(path, i, metadata.row_group(i).num_rows, metadata) for i in range(metadata.num_row_groups)
            ]
        return groups

    def columns(self, split: Split) -> pa.Schema:
        """Name the columns of a split's shards, with their types; none where it has no shard.

        Args:
            split: the part.

        Raises:
            ArtifactError: a shard is missing or damaged.
        """
        groups = self.row_groups(split)
        return groups[0].metadata.schema.to_arrow_schema() if groups else pa.schema([])

    def column(self, split: Split, name: str) -> pa.ChunkedArray:
        """Read one column of a split, in the order of its rows.

        Args:
            split: the part, with at least one row.
            name: a column of its shards.

        Raises:
            ArtifactError: a shard is missing or damaged.
        """
        return pa.chunked_array([_read_group(group, [name])[name].combine_chunks() for group in self.row_groups(split)])

    def bytes_per_row(self) -> int:
        """Memory that a row takes as tensors."""
        steps, truth = self.schema.n_steps, 8 * self.schema.n_steps * self.schema.has_truth
        potential = 4 * steps * self.schema.has_potential
        value = 4 * (self.schema.value_step is not None) + steps * (not self.schema.graph.is_chain)
        return 4 * self.schema.width + 5 * steps + 4 + 8 * self.schema.has_user + truth + potential + value

    def first_negatives(self, group: RowGroup) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Mark the rows of a row group whose first step is known not to have happened; nothing else of it is read.

        Args:
            group: the row group.

        Raises:
            ArtifactError: the shard is missing or damaged.
        """
        name = label_column(self.schema.step_names[0])
        return np.asarray(_read_group(group, [name])[name].fill_null(1).to_numpy() == 0)

    def read(self, groups: Sequence[RowGroup], out: Ids | None = None) -> Batch:
        """Read row groups into one batch, in the given order; besides it, memory holds one row group at a time.

        Args:
            groups: at least one row group.
            out: [at least the groups' rows, W] int32, to hold the batch's ids; None for a new array.

        Raises:
            ArtifactError: a shard is missing or damaged.
        """
        rows = sum(group.rows for group in groups)
        ids = np.empty((rows, self.schema.width), dtype=np.int32) if out is None else out[:rows]
        others: list[_Others] = []
        start = 0
        for group in groups:
            table = _read_group(group)
            ids_matrix(table, self.schema, out=ids[start : start + group.rows])
            others.append(_other_columns(table, self.schema))
            start += group.rows
        return _joined(torch.from_numpy(ids), others)

    def read_outcomes(self, split: Split) -> Batch:
        """Read everything of a split but the ids, whose width is 0 in the batch returned.

        Args:
            split: the part.

        Raises:
            ArtifactError: a shard is missing or damaged.
        """
        fields = {field_column(encoded.name) for encoded in self.schema.fields}
        names = [name for name in self.columns(split).names if name not in fields]
        others = [_other_columns(_read_group(group, names), self.schema) for group in self.row_groups(split)]
        return _joined(torch.empty((self.rows(split), 0), dtype=torch.int32), others)


_Others = tuple[Tensor | None, ...]  # the tensors of a batch after the ids, in its order


def _joined(ids: Tensor, others: Sequence[_Others]) -> Batch:
    """Put the tensors of several row groups below each other, beside their ids [B, W]."""
    joined = (None if parts[0] is None else torch.cat(parts) for parts in zip(*others, strict=True))
    return Batch(ids, *joined)  # type: ignore[arg-type]


def _read_group(group: RowGroup, columns: list[str] | None = None) -> pa.Table:
    """Read one row group in the calling thread, all columns or some."""
    try:
        with pq.ParquetFile(group.path, metadata=group.metadata) as file:
            table = file.read_row_group(group.index, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{group.path}: row group {group.index} is missing or damaged: {error}") from error
    if table.num_rows != group.rows:
        raise ArtifactError(
            f"{group.path}: row group {group.index} should have {group.rows} rows, received {table.num_rows}"
        )
    return table


def _other_columns(table: pa.Table, schema: Schema) -> _Others:
    """Everything of a batch but the ids."""
    labels, observed = _labels(table, schema)
    weight = _float(table, [WEIGHT_COLUMN])[:, 0] if schema.has_weight else torch.ones(table.num_rows)
    user = torch.from_numpy(table[USER_COLUMN].to_numpy().copy()) if schema.has_user else None
    reach = transition = potential = None
    if schema.has_truth:
        reach = _float(table, [true_reach_column(name) for name in schema.step_names])
        transition = _float(table, [true_transition_column(name) for name in schema.step_names])
    if schema.has_potential:
        potential = _float(table, [true_potential_column(name) for name in schema.step_names])
    value = None
    if schema.value_step is not None:
        value = torch.from_numpy(table[value_column(schema.value_step.name)].fill_null(0.0).to_numpy().copy())
    scope = None if schema.graph.is_chain else _scope(schema, labels, observed)
    return labels, observed, weight, user, reach, transition, potential, value, scope


def _scope(schema: Schema, labels: Tensor, observed: Tensor) -> Tensor:
    """Mark where a row is known to lie in each step's scope: labels and observed [B, S] -> [B, S]."""
    happened, missed = observed & (labels > 0.5), observed & (labels < 0.5)
    everyone = torch.ones_like(observed[:, 0])
    return torch.stack(schema.graph.scopes(happened.unbind(1), missed.unbind(1), everyone), dim=1)


def _labels(table: pa.Table, schema: Schema) -> tuple[Tensor, Tensor]:
    """Labels [B, S] with 0 where unobserved, and observed [B, S]."""
    columns = [table[label_column(name)] for name in schema.step_names]
    observed = np.stack([column.is_valid().to_numpy() for column in columns], axis=1)
    labels = np.stack([column.fill_null(0).to_numpy() for column in columns], axis=1).astype(np.float32)
    return torch.from_numpy(labels), torch.from_numpy(observed)


def _float(table: pa.Table, columns: list[str]) -> Tensor:
    """Float columns as [B, len(columns)]."""
    return torch.from_numpy(np.stack([table[c].to_numpy() for c in columns], axis=1).astype(np.float32))
