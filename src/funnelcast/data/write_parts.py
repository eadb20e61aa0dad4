"""The last pass: staged rows -> encoded rows -> shards of TRAIN, VALID and TEST, all in the order of the source."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from funnelcast.data.description import Description
from funnelcast.data.encode import Encoders, TrainRows
from funnelcast.data.shard_writer import ShardWriter
from funnelcast.data.split import Split
from funnelcast.data.stage import PART, raw_columns, staged_column
from funnelcast.data.target_statistics import train_statistics
from funnelcast.progress import RowProgress
from funnelcast.schema import (
    TIME_COLUMN,
    USER_COLUMN,
    WEIGHT_COLUMN,
    field_column,
    label_column,
    true_potential_column,
    true_reach_column,
    true_transition_column,
    value_column,
)

__all__ = ["write_parts"]

_MOST_ROWS = 1 << 20  # of a window; beyond that larger windows no longer pay


def write_parts(
    description: Description,
    encoders: Encoders,
    staged: Path,
    own_statistics: list[Path],
    folder: Path,
    *,
    window_bytes: int,
    threads: int,
    progress: RowProgress,
) -> dict[Split, list[dict[str, Any]]]:
    """Encode all staged rows and write them part by part.

    Args:
        description: the dataset file.
        encoders: fitted encoders.
        staged: the staged Parquet file.
        own_statistics: for each target statistic the file of TRAIN's own statistics.
        folder: where `train`, `valid` and `test` go.
        window_bytes: raw bytes that are encoded at once.
        threads: columns that are encoded at once, >= 1.
        progress: counts staged rows.

    Returns:
        The manifest's entries of each part's files.
    """
    copied = _copied_columns(description)
    with ExitStack() as stack:
        file = stack.enter_context(pq.ParquetFile(staged))
        own = [_Rows(stack.enter_context(pq.ParquetFile(path))) for path in own_statistics]
        schema = _shard_schema(description, encoders, file.schema_arrow)
        writers = {split: ShardWriter(folder / split.value, schema) for split in Split}
        for writer in writers.values():
            stack.callback(writer.abort)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        scribe = stack.enter_context(ThreadPoolExecutor(1))
        written: Future[None] | None = None
        for window in _windows(file, [*raw_columns(description), *copied, PART], window_bytes):
            rows = _encode(description, encoders, window, own, pool)
            rows = pa.table(
                [*rows.columns, *(window[staged_name] for staged_name in copied)],
                names=[*rows.column_names, *copied.values()],
            )
            if written is not None:
                written.result()  # one window at most waits for the disk
            written = scribe.submit(_write, writers, window[PART].to_numpy(), rows.cast(schema))
            progress.advance(window.num_rows)
        if written is not None:
            written.result()
        return {split: writer.close() for split, writer in writers.items()}


def _copied_columns(description: Description) -> dict[str, str]:
    """Staged columns that go into shards as they are: staged name -> shard name."""
    steps = [step.name for step in description.steps]
    columns = {staged_column(f"label.{step}"): label_column(step) for step in steps}
    for present, staged_name, name in (
        (description.user, "user", USER_COLUMN),
        (description.time, "time", TIME_COLUMN),
        (description.weight, "weight", WEIGHT_COLUMN),
    ):
        if present:
            columns[staged_column(staged_name)] = name
    for step in description.steps:
        if step.kind == "value":
            columns[staged_column(f"value.{step.name}")] = value_column(step.name)
        if step.true_reach:
            columns[staged_column(f"truth.reach.{step.name}")] = true_reach_column(step.name)
        if step.true_transition:
            columns[staged_column(f"truth.transition.{step.name}")] = true_transition_column(step.name)
        if step.true_potential:
            columns[staged_column(f"truth.potential.{step.name}")] = true_potential_column(step.name)
    return columns


def _shard_schema(description: Description, encoders: Encoders, staged: pa.Schema) -> pa.Schema:
    multi = {feature.name for feature in description.features if feature.kind == "multi"}
    fields = [
        pa.field(field_column(field.name), pa.list_(pa.int32()) if field.name in multi else pa.int32(), nullable=False)
        for field in encoders.fields()
    ]
    kinds = {USER_COLUMN: pa.int64(), TIME_COLUMN: None}
    for staged_name, name in _copied_columns(description).items():
        if name.startswith(label_column("")):
            kind = pa.int8()
        elif name == TIME_COLUMN:
            kind = staged.field(staged_name).type
        else:
            kind = kinds.get(name, pa.float32())
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _windows(file: pq.ParquetFile, columns: list[str], window_bytes: int) -> Iterator[pa.Table]:
    """Read row groups in order and hand out as many at once as fit into the budget."""
    waiting: list[pa.Table] = []
    for number in range(file.num_row_groups):
        waiting.append(file.read_row_group(number, columns=columns))
        used = sum(table.nbytes for table in waiting)
        rows = sum(table.num_rows for table in waiting)
        if used + used // len(waiting) > window_bytes or rows >= _MOST_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _encode(
    description: Description, encoders: Encoders, window: pa.Table, own: list[_Rows], pool: ThreadPoolExecutor
) -> pa.Table:
    mask = window[PART].to_numpy() == 0
    count = int(mask.sum())
    statistics = [train_statistics(rows.take(count), len(description.steps)) for rows in own]
    return encoders.encode(window, train=TrainRows(mask, statistics), pool=pool)


def _write(writers: dict[Split, ShardWriter], part: np.ndarray[Any, np.dtype[np.int8]], rows: pa.Table) -> None:
    for number, writer in enumerate(writers.values()):
        mask = part == number
        if mask.all():
            writer.append(rows)
        elif mask.any():
            writer.append(rows.take(pc.indices_nonzero(pa.array(mask))))


class _Rows:
    """The rows of a Parquet file, taken from the front in pieces of any size.

    Args:
        file: the open file.
    """

    def __init__(self, file: pq.ParquetFile) -> None:
        self._batches = file.iter_batches(use_threads=False)
        self._rest = file.schema_arrow.empty_table()

    def take(self, count: int) -> pa.Table:
        """Return the next rows.

        Args:
            count: how many.
        """
        pieces = [self._rest]
        available = self._rest.num_rows
        while available < count:
            batch = next(self._batches)
            pieces.append(pa.Table.from_batches([batch]))
            available += batch.num_rows
        rows = pa.concat_tables(pieces)
        self._rest = rows.slice(count)
        return rows.slice(0, count)
