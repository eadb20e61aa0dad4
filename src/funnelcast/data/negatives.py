"""Which rows an epoch keeps when negatives are down-sampled: a pure function of (seed, epoch, position).

`funnelcast.negatives` corrects what a model learns from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.data.shards import PreparedData, RowGroup

__all__ = ["NegativeSample", "uniform_hash"]

Array = NDArray[Any]


def uniform_hash(key: int, positions: Array) -> Array:
    """Map whole numbers to numbers that look uniform on [0, 1).

    Args:
        key: in [0, 2^64); another key gives other numbers.
        positions: [N] uint64.

    Returns:
        [N] float64, multiples of 2^-53.

    Source: Steele, Lea and Flood, OOPSLA 2014, "Fast splittable pseudorandom number generators" (SplitMix64).

    Example:
        >>> uniform_hash(0, np.array([0, 1], dtype=np.uint64)).round(4).tolist()
        [0.8833, 0.4315]
    """
    z = (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)  # modulo 2^64
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    numbers: Array = (z >> np.uint64(11)) * 2.0**-53
    return numbers


class NegativeSample:
    """Keeps a share of the rows whose first step is known not to have happened, and every other row.

    A row is known by its position among all rows of the split, so that neither threads nor memory matter, and a
    resumed epoch draws the same rows. Another epoch draws others. Memory: one bit a row.

    Args:
        data: the prepared folder.
        groups: the row groups of the split, all and in order.
        share: of the negatives to keep, in (0, 1).

    Raises:
        ArtifactError: a shard is missing or damaged.
    """

    def __init__(self, data: PreparedData, groups: Sequence[RowGroup], share: float) -> None:
        self.share = share
        self._negative = [np.packbits(data.first_negatives(group)) for group in groups]
        self._starts = np.cumsum([0, *(group.rows for group in groups)])
        self._counts: dict[tuple[int, int], list[int]] = {}

    def kept(self, number: int, seed: int, epoch: int) -> Array:
        """Mark the rows of a row group that an epoch keeps.

        Args:
            number: of the row group, from 0.
            seed: >= 0.
            epoch: >= 0.

        Returns:
            [rows of the group] bool.
        """
        start, stop = self._starts[number], self._starts[number + 1]
        negative = np.unpackbits(self._negative[number], count=stop - start).astype(bool)
        key = np.random.SeedSequence((seed, epoch), spawn_key=(1,)).generate_state(1, np.uint64)[0]
        positions = np.arange(start, stop, dtype=np.uint64)[negative]
        kept = ~negative
        kept[negative] = uniform_hash(int(key), positions) < self.share
        return kept

    def counts(self, seed: int, epoch: int) -> list[int]:
        """Count the rows of each row group that an epoch keeps.

        Args:
            seed: >= 0.
            epoch: >= 0.
        """
        key = (seed, epoch)
        if key not in self._counts:
            numbers = range(len(self._negative))
            self._counts[key] = [int(np.count_nonzero(self.kept(number, *key))) for number in numbers]
        return self._counts[key]
