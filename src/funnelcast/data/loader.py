"""Shards -> batches; the order is a pure function of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from funnelcast.batch import Batch
from funnelcast.data.ids import Ids
from funnelcast.data.negatives import NegativeSample
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.data.staging import Index, fits_device, pick_rows, stage

__all__ = ["Loader"]

# Row groups shuffled together. Both ways of loading use the same buffers, so that the order does not depend on memory.
BUFFER_GROUPS = 8
# Rows picked at once: enough to make the cost of a call small, few enough to stay in a processor's cache.
PICKED_ROWS = 16_384

_CPU = torch.device("cpu")
Result = TypeVar("Result")
# Some rows in their final order: how many they are, and how to get those from a place to another.
Piece = tuple[int, Callable[[int, int], Batch]]


class Loader:
    """Batches of one split, from memory when the split fits, else streamed from the shards.

    Row groups are shuffled, then the rows inside each buffer of 8 row groups (524,288 rows as `prepare` writes them);
    smaller splits are shuffled completely.

    A stream is read ahead in a thread of its own, which ends with the iteration, also where that is given up. Its
    memory is two buffers, the one whose rows are being picked and the one that is being read, and one row group.

    Args:
        data: the prepared folder.
        split: the part to load.
        batch_size: rows of a batch; the last one of an epoch may be smaller.
        memory_bytes: a split that needs more memory than this is streamed.
        device: where the batches will be used. A GPU holds the whole split and makes the batches itself if that takes
            no more than half of its free memory; otherwise batches are on the CPU, for a GPU in page-locked memory.
        negatives: share in (0, 1] of the rows without the first step that a shuffled epoch keeps.

    Raises:
        ArtifactError: a shard is missing or damaged; a stream says so where the shard's rows are due.
    """

    def __init__(
        self,
        data: PreparedData,
        split: Split,
        batch_size: int,
        memory_bytes: int = 4 << 30,
        device: torch.device = _CPU,
        negatives: float = 1.0,
    ) -> None:
        self.batch_size = batch_size
        self.rows = data.rows(split)
        self._data = data
        self._groups = data.row_groups(split)
        self._starts = np.cumsum([0, *(group.rows for group in self._groups)])
        self._sample = None if negatives == 1.0 else NegativeSample(data, self._groups, negatives)
        self._pinned = device.type == "cuda"
        size = self.rows * data.bytes_per_row()
        staged = fits_device(size, device)
        self.in_memory = staged or size <= memory_bytes
        if staged:
            self._all: Batch | None = stage((data.read([group]) for group in self._groups), self.rows, device)
        else:
            self._all = data.read(self._groups) if self.in_memory else None

    def planned(self, seed: int, epochs: int) -> tuple[int, int]:
        """Count the rows and the batches of the first epochs.

        Args:
            seed: >= 0.
            epochs: >= 0.
        """
        rows = [sum(self._sizes(seed, epoch)) for epoch in range(epochs)]
        return sum(rows), sum(-(-count // self.batch_size) for count in rows)

    def _sizes(self, seed: int, epoch: int) -> list[int]:
        """Rows of each row group in an epoch."""
        return [group.rows for group in self._groups] if self._sample is None else self._sample.counts(seed, epoch)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the shuffled batches of an epoch.

        Args:
            seed: >= 0.
            epoch: >= 0; it also decides which negatives are kept.
            start: batches to skip, in order to go on where a former run stopped.
        """
        calls = self._buffers(seed, epoch, start * self.batch_size)
        yield from self._cut(_read_ahead(calls) if self._all is None else (call() for call in calls))

    def in_order(self) -> Iterator[Batch]:
        """Yield all batches in the order of the shards."""
        if self._all is not None:
            yield from self._all.split(self.batch_size)
        else:
            yield from self._cut(_read_ahead(partial(self._in_order, number) for number in range(len(self._groups))))

    def _buffers(self, seed: int, epoch: int, skip: int) -> Iterator[Callable[[], Piece]]:
        """Yield how to get each buffer, without those that the first `skip` rows of the epoch fill."""
        groups = _generator(seed, epoch, 0).permutation(len(self._groups))
        sizes = self._sizes(seed, epoch)
        slots = [] if self.in_memory else [self._slot(), self._slot()]
        for number, first in enumerate(range(0, len(groups), BUFFER_GROUPS)):
            members = groups[first : first + BUFFER_GROUPS]
            rows = sum(sizes[i] for i in members)
            if skip < rows:
                # When a buffer is asked for, the rows of the last but one have been picked, so its memory is free.
                slot = slots[number % 2] if slots else None
                yield partial(self._shuffled, members, (seed, epoch, 1 + number), skip, slot)
            skip = max(0, skip - rows)

    def _slot(self) -> Ids:
        """Memory for the ids of any buffer; new memory for each would cost half as much as reading it."""
        largest = sorted(group.rows for group in self._groups)[-BUFFER_GROUPS:]
        return np.empty((sum(largest), self._data.schema.width), dtype=np.int32)

    def _shuffled(self, members: Index, key: tuple[int, ...], skip: int, slot: Ids | None) -> Piece:
        """Shuffle the rows of some groups, and pass over the first `skip` of them."""
        if self._sample is None:
            order = _generator(*key).permutation(sum(self._groups[i].rows for i in members))[skip:]
        else:
            kept = np.flatnonzero(np.concatenate([self._sample.kept(i, key[0], key[1]) for i in members]))
            order = kept[_generator(*key).permutation(len(kept))][skip:]
        if self._all is None:
            source = self._data.read([self._groups[i] for i in members], slot)
        else:
            source = self._all
            order = np.concatenate([np.arange(self._starts[i], self._starts[i + 1]) for i in members])[order]
        return len(order), pick_rows(source, order, pinned=self._pinned)

    def _in_order(self, number: int) -> Piece:
        """Read one row group."""
        return self._groups[number].rows, self._data.read([self._groups[number]]).cut

    def _cut(self, pieces: Iterable[Piece]) -> Iterator[Batch]:
        """Cut pieces of any size into batches of exactly `batch_size`, the last one excepted."""
        size = self.batch_size
        at_once = max(1, PICKED_ROWS // size) * size
        begun: list[Batch] = []  # the batch that the former piece began
        missing = 0
        for rows, pick in pieces:
            place = min(missing, rows)
            if place:
                begun.append(pick(0, place))
                missing -= place
                if not missing:
                    yield Batch.concatenate(begun)
                    begun = []
            whole = rows - (rows - place) % size
            for start in range(place, whole, at_once):
                yield from pick(start, min(start + at_once, whole)).split(size)
            if whole < rows:
                begun, missing = [pick(whole, rows)], size - (rows - whole)
            del pick  # the next piece comes while this one's rows are let go
        if begun:
            yield Batch.concatenate(begun)


def _read_ahead(calls: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Yield the results of calls in order; while one is in use, a thread makes the next, and no more than that.

    An error of a call is raised where its result is due. Who gives up the iteration waits for the call under way.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="funnelcast-loader") as thread:
        ahead: Future[Result] | None = None
        for call in calls:
            result, ahead = ahead, thread.submit(call)
            if result is not None:
                yield result.result()
            del result
        if ahead is not None:
            yield ahead.result()


def _generator(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
