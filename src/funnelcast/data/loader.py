"""Shards -> batches; the order is a pure function of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from funnelcast.batch import Batch
from funnelcast.data.shards import PreparedData, RowGroup
from funnelcast.data.split import Split

__all__ = ["Loader"]

# Row groups shuffled together. Both ways of loading use the same buffers, so that the order does not depend on memory.
BUFFER_GROUPS = 8


class Loader:
    """Batches of one split, from memory when the split fits, else streamed from the shards.

    Row groups are shuffled, then the rows inside each buffer of 8 row groups (524,288 rows as `prepare` writes them);
    smaller splits are shuffled completely.

    Args:
        data: the prepared folder.
        split: the part to load.
        batch_size: rows of a batch; the last one of an epoch may be smaller.
        memory_bytes: a split that needs more memory than this is streamed.
    """

    def __init__(self, data: PreparedData, split: Split, batch_size: int, memory_bytes: int = 4 << 30) -> None:
        self.batch_size = batch_size
        self.rows = data.rows(split)
        self._data = data
        self._groups = data.row_groups(split)
        self._starts = np.cumsum([0, *(group.rows for group in self._groups)])
        self.in_memory = self.rows * data.bytes_per_row() <= memory_bytes
        self._all = data.read(self._groups) if self.in_memory else None

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.rows // self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the shuffled batches of an epoch.

        Args:
            seed: >= 0.
            epoch: >= 0.
            start: batches to skip, in order to go on where a former run stopped.
        """
        order = _generator(seed, epoch, 0).permutation(len(self._groups))
        buffers = [order[i : i + BUFFER_GROUPS] for i in range(0, len(order), BUFFER_GROUPS)]
        yield from self._cut(self._shuffled_buffers(buffers, seed, epoch, start * self.batch_size))

    def in_order(self) -> Iterator[Batch]:
        """Yield all batches in the order of the shards."""
        if self._all is not None:
            yield from self._cut(iter([self._all]))
        else:
            yield from self._cut(self._data.read([group]) for group in self._groups)

    def _shuffled_buffers(self, buffers: list[np.ndarray], seed: int, epoch: int, skip: int) -> Iterator[Batch]:
        """Yield the rows of each buffer in their final order, without the first `skip` rows of the epoch."""
        for number, members in enumerate(buffers):
            groups = [self._groups[i] for i in members]
            rows = sum(group.rows for group in groups)
            if skip >= rows:
                skip -= rows
                continue
            order = _generator(seed, epoch, 1 + number).permutation(rows)[skip:]
            skip = 0
            yield from self._gather(groups, members, order)

    def _gather(self, groups: list[RowGroup], members: np.ndarray, order: np.ndarray) -> Iterator[Batch]:
        """Pick rows of the concatenated groups, from memory or from their shards, a batch's worth at a time."""
        if self._all is not None:
            places = np.concatenate([np.arange(self._starts[i], self._starts[i + 1]) for i in members])
            source, index = self._all, torch.from_numpy(places[order])
        else:
            source, index = self._data.read(groups), torch.from_numpy(order)
        for i in range(0, len(index), self.batch_size):
            yield source.take(index[i : i + self.batch_size])

    def _cut(self, pieces: Iterator[Batch]) -> Iterator[Batch]:
        """Cut pieces of any size into batches of exactly `batch_size`, the last one excepted."""
        rest: Batch | None = None
        for piece in pieces:
            joined = piece if rest is None else Batch.concatenate([rest, piece])
            whole = len(joined) - len(joined) % self.batch_size
            for i in range(0, whole, self.batch_size):
                yield joined.cut(i, i + self.batch_size)
            rest = joined.cut(whole, len(joined)) if whole < len(joined) else None
        if rest is not None:
            yield rest


def _generator(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
