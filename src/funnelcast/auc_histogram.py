"""The AUC of rows that never lie in memory at once: counts of score bins that can be merged. Legend: N rows, K bins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.auc import ordered_integers
from funnelcast.metrics import Undefined, Value, checked_rows

__all__ = ["AucHistogram"]

Array = NDArray[Any]
Columns = tuple[Array, Array, Array]  # bin numbers, weight of the positives, weight of the negatives, [K] each

FORMAT = 1


class AucHistogram:
    """Counts of positives and negatives in score bins, from which the AUC follows with a bound on its error.

    AUC = sum_b p_b (sum_{a<b} n_a + n_b / 2) / (sum p * sum n): within a bin, half of the pairs count as won.

    A bin is what is left of a float32 score when its last `shift` bits are dropped, so that bins lie a relative
    2^(shift - 24) apart or closer, nothing is clipped, and the logarithm of a small probability is resolved like its
    log-odds. `shift` is the smallest one at which all rows fit into `bins` bins. It never falls when rows come, and
    bins of a larger shift are unions of those of a smaller one: the state depends on the rows alone, neither on their
    order nor on how they were divided into parts. Below `bins` different float32 scores the AUC is exact.

    Give log-odds or log-probabilities. Probabilities do as well, but float32 cannot tell those near 1 apart.

    Args:
        bins: K >= 2, the most bins that hold rows; memory is 20 bytes a bin and 13 bytes for each of at most `bins`
            rows that wait for their bins.

    Raises:
        ValueError: bins is below 2.

    Example:
        >>> first, second = AucHistogram(), AucHistogram()
        >>> first.add(np.array([-2.0, -1.0]), np.array([0, 0]))
        >>> second.add(np.array([-1.0, 3.0]), np.array([1, 1]))
        >>> both = first.merge(second)
        >>> both.auc(), both.error_bound()
        (0.875, 0.0)
    """

    def __init__(self, bins: int = 2**20) -> None:
        if bins < 2:
            raise ValueError(f"bins should be >= 2, received {bins}")
        self.bins = bins
        self._shift = 0
        self._rounded = False  # some score was no float32
        self._counts: Columns = _no_rows()
        self._waiting: list[Columns] = []
        self._waiting_rows = 0

    def add(self, scores: Array, labels: Array, weights: Array | None = None) -> None:
        """Count rows.

        Args:
            scores: [N] any numbers, infinities among them; larger means more likely.
            labels: [N] bool or {0, 1}.
            weights: [N] >= 0, or None for one each.

        Raises:
            ValueError: shapes differ, a score is NaN, or a weight is negative or infinite.
        """
        labels, weight, (scores,) = checked_rows(labels, weights, scores)
        if not len(labels):
            return
        if weight is None:  # one for all rows, but not the same one in every call
            weight = np.full(len(labels), 1.0 if weights is None else float(weights[0]))
        with np.errstate(over="ignore"):
            short = scores.astype(np.float32)
        self._rounded |= scores.dtype != np.float32 and bool((short != scores).any())
        self._waiting.append((ordered_integers(short), labels, weight))
        self._waiting_rows += len(labels)
        if self._waiting_rows >= self.bins:
            self._settle()

    def merge(self, other: AucHistogram) -> AucHistogram:
        """Return the histogram of the rows of both; neither changes.

        With weights whose sums are no exact floats, the order of merging matters in the last bits.

        Args:
            other: has as many bins.

        Raises:
            ValueError: the numbers of bins differ.
        """
        if other.bins != self.bins:
            raise ValueError(f"the other histogram should have {self.bins} bins, received {other.bins}")
        merged = AucHistogram(self.bins)
        merged._rounded = self._rounded or other._rounded
        for part in (self, other):
            part._settle()
            merged._take(part._counts, part._shift)
        return merged

    def auc(self) -> Value:
        """Return the AUC, undefined when a class is missing."""
        self._settle()
        _, positive, negative = self._counts
        positives, negatives = positive.sum(), negative.sum()
        if reason := _one_class(positives, negatives):
            return Undefined(reason)
        below = np.cumsum(negative) - negative / 2
        return float(np.dot(positive, below) / (positives * negatives))

    def error_bound(self) -> Value:
        """Return the most by which `auc` can differ from the exact AUC of the rows; undefined where that is.

        sum_b p_b n_b / 2 / (sum p * sum n): the pairs within a bin are won by 0 to 1 instead of the 1/2 that counts.
        0 where every bin holds a single score.
        """
        self._settle()
        _, positive, negative = self._counts
        positives, negatives = positive.sum(), negative.sum()
        if reason := _one_class(positives, negatives):
            return Undefined(reason)
        if not self._shift and not self._rounded:
            return 0.0
        return float(np.dot(positive, negative) / (2 * positives * negatives))

    def to_arrays(self) -> dict[str, Array]:
        """Return arrays for `np.savez`, from which `from_arrays` makes the same histogram.

        Example:
            >>> sorted(AucHistogram(bins=64).to_arrays())
            ['bin', 'header', 'negative', 'positive']
        """
        self._settle()
        number, positive, negative = self._counts
        header = np.array([FORMAT, self.bins, self._shift, self._rounded], dtype=np.int64)
        return {"header": header, "bin": number, "positive": positive, "negative": negative}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> AucHistogram:
        """Undo `to_arrays`.

        Args:
            arrays: what `to_arrays` returned, or what `np.load` read of it.

        Raises:
            ValueError: the arrays are not those of a histogram.
        """
        missing = [name for name in ("header", "bin", "positive", "negative") if name not in arrays]
        if missing:
            raise ValueError(f"the arrays of a histogram should hold '{missing[0]}', received {sorted(arrays)}")
        header = np.asarray(arrays["header"]).tolist()
        if not isinstance(header, list) or len(header) != 4 or header[0] != FORMAT:
            raise ValueError(f"the header of a histogram should be [{FORMAT}, bins, shift, rounded], received {header}")
        _, bins, shift, rounded = header
        number, positive, negative = (np.asarray(arrays[name]) for name in ("bin", "positive", "negative"))
        made = cls(bins)
        if not (
            0 <= shift < 32
            and number.dtype == np.uint32
            and positive.dtype == negative.dtype == np.float64
            and number.ndim == 1
            and number.shape == positive.shape == negative.shape
            and len(number) <= bins
            and bool((number[1:] > number[:-1]).all())
            and bool(np.isfinite(positive + negative).all() and (np.minimum(positive, negative) >= 0).all())
        ):
            raise ValueError(f"the arrays of a histogram should be rising bins with weights >= 0, received {header}")
        made._shift, made._rounded, made._counts = shift, bool(rounded), (number, positive, negative)
        return made

    def _settle(self) -> None:
        """Put the rows that wait into bins."""
        if not self._waiting:
            return
        number, labels, weight = (np.concatenate(columns) for columns in zip(*self._waiting, strict=True))
        self._waiting, self._waiting_rows = [], 0
        order = np.argsort(number)
        self._take(_summed(number[order], labels[order] * weight[order], ~labels[order] * weight[order]), 0)

    def _take(self, counts: Columns, shift: int) -> None:
        """Add bins of any shift and drop bits until all bins fit."""
        top = max(shift, self._shift)
        own, others = self._counts[0] >> np.uint32(top - self._shift), counts[0] >> np.uint32(top - shift)
        number = np.concatenate([own, others])
        positive, negative = (np.concatenate(pair) for pair in zip(self._counts[1:], counts[1:], strict=True))
        order = np.argsort(number, kind="stable")  # two sorted runs are merged in linear time
        self._counts, self._shift = _summed(number[order], positive[order], negative[order]), top
        while len(self._counts[0]) > self.bins:
            number, positive, negative = self._counts
            self._counts, self._shift = _summed(number >> np.uint32(1), positive, negative), self._shift + 1


def _no_rows() -> Columns:
    return np.zeros(0, np.uint32), np.zeros(0), np.zeros(0)


def _summed(number: Array, positive: Array, negative: Array) -> Columns:
    """Sum up the weights of equal numbers, which lie side by side."""
    if not len(number):
        return _no_rows()
    first = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    return number[first], np.add.reduceat(positive, first), np.add.reduceat(negative, first)


def _one_class(positives: float, negatives: float) -> str | None:
    """Say why there is no AUC, in the words of the exact one."""
    if positives + negatives == 0:
        return "no rows"
    if positives > 0 and negatives > 0:
        return None
    return f"only one class: {positives:.15g} positives of {positives + negatives:.15g} rows"
