"""The rows of a split in the shape that a tree library takes: one matrix of columns, and what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import DataError
from funnelcast.trees._columns import Columns, Floats

__all__ = ["Rows"]

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The rows of a split in the order of the shards.

    Args:
        split: the part.
        matrix: [N, C] columns for trees.
        labels: [N, S] bool, read where they are observed.
        observed: [N, S] bool, whether the label is known.
        local: [N, S] bool, whether the row is also known to have the former step.
        weight: [N] float32 >= 0, sample weight.
    """

    split: Split
    matrix: Floats
    labels: Flags
    observed: Flags
    local: Flags
    weight: npt.NDArray[np.float32]

    @classmethod
    def read(cls, data: PreparedData, split: Split, columns: Columns) -> Self:
        """Read a split; besides the matrix, memory holds one row group at a time.

        Args:
            data: the prepared folder.
            split: the part.
            columns: what to make of the ids.

        Raises:
            ArtifactError: a shard is missing or damaged.
        """
        rows, steps = data.rows(split), data.schema.n_steps
        matrix = np.empty((rows, len(columns.members)), columns.dtype)
        happened, weight = np.zeros((3, rows, steps), np.bool_), np.zeros(rows, np.float32)
        start = 0
        for group in data.row_groups(split):
            batch = data.read([group])
            own = slice(start, start + len(batch))
            columns.matrix(batch.ids.numpy(), out=matrix[own])
            for flags, value in zip(happened, (batch.labels > 0.5, batch.observed, batch.local), strict=True):
                flags[own] = value.numpy()
            weight[own] = batch.weight.numpy()
            start += len(batch)
        labels, observed, local = happened
        return cls(split, matrix, labels, observed, local, weight)

    def chosen(self, step: int, names: list[str], *, local: bool) -> npt.NDArray[np.int64]:
        """Number the rows that a step's trees see: the label is known and the weight is above 0.

        Args:
            step: number of the step.
            names: of the steps, for the message.
            local: whether the former step must be known to have happened.

        Raises:
            DataError: there are none, or in TRAIN all are of one class.
        """
        known = (self.local if local else self.observed)[:, step] & (self.weight > 0)
        found = np.flatnonzero(known)
        positives = np.count_nonzero(self.labels[found, step])
        wanted = "rows of both classes" if self.split is Split.TRAIN else "rows"
        if not len(found) or (self.split is Split.TRAIN and positives in (0, len(found))):
            raise DataError(
                f"step '{names[step]}' needs {wanted} with a known label and a weight above 0 in "
                f"{self.split.value.upper()}, received {positives:,} positive and {len(found) - positives:,} negative"
            )
        return found

    def entropy(self, step: int, rows: npt.NDArray[Any]) -> float:
        """Compute the log-loss of the rows' own rate, which is 0 where they are of one class.

        Args:
            step: number of the step.
            rows: [n] numbers of rows.
        """
        rate = float(np.average(self.labels[rows, step], weights=self.weight[rows]))
        return 0.0 if rate in (0.0, 1.0) else float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))
