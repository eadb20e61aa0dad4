"""How far the distribution of a number has moved between two sets of rows: the population stability index.

Shape legend: Q bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bin_counts", "psi", "psi_by_chance", "psi_words"]

Array = NDArray[Any]
_MODERATE, _LARGE = 0.1, 0.25
_EMPTY = 0.5  # rows that an empty bin is taken to have, since its logarithm must be finite


def psi(reference: Array, current: Array) -> float:
    """Compute PSI = sum_q (a_q - e_q) ln(a_q / e_q) of the shares e and a of two sets of rows in the same bins.

    An empty bin counts half a row.

    Args:
        reference: [Q] rows of the reference, at least one in all.
        current: [Q] rows of the other set, at least one in all.

    Source: Siddiqi 2006, "Credit risk scorecards" (as usually told).

    Example:
        >>> round(psi(np.array([50, 50]), np.array([75, 25])), 6)  # 0.25 ln 1.5 + 0.25 ln 2
        0.274653
    """
    e, a = (np.maximum(np.asarray(rows, dtype=np.float64), _EMPTY) for rows in (reference, current))
    e, a = e / e.sum(), a / a.sum()
    return float(((a - e) * np.log(a / e)).sum())


def psi_by_chance(bins: int, reference: int, current: int) -> float:
    """Return the mean PSI of two draws from one distribution, about (Q - 1) (1 / N + 1 / M).

    Args:
        bins: Q >= 1.
        reference: N >= 1 rows.
        current: M >= 1 rows.

    Source: Yurdakul 2018, "Statistical properties of population stability index": PSI over (1 / N + 1 / M) is
    asymptotically chi-squared with Q - 1 degrees of freedom.

    Example:
        >>> psi_by_chance(11, 1000, 1000)
        0.02
    """
    return (bins - 1) * (1.0 / reference + 1.0 / current)


def psi_words(value: float) -> str:
    """Say what a PSI is usually taken to mean: below 0.1, below 0.25, and above.

    Args:
        value: a PSI.

    Example:
        >>> [psi_words(value) for value in (0.09, 0.1, 0.25)]
        ['stable', 'moderate shift', 'large shift']
    """
    return "stable" if value < _MODERATE else "moderate shift" if value < _LARGE else "large shift"


def bin_counts(reference: Array, current: Array, bins: int = 10) -> tuple[Array, Array]:
    """Count two sets of numbers in the same bins, which hold about equal shares of the reference.

    Equal numbers share a bin, so that there are fewer bins where many numbers are equal.

    Args:
        reference: [N] numbers, N >= 1.
        current: [M] numbers.
        bins: the largest number of bins, >= 1.

    Returns:
        [Q] rows of the reference and [Q] rows of the other set.

    Example:
        >>> [part.tolist() for part in bin_counts(np.array([1, 2, 3, 4]), np.array([0, 0, 9]), bins=2)]
        [[2, 2], [2, 1]]
    """
    cuts = np.unique(np.quantile(reference, np.arange(1, bins) / bins, method="lower"))
    cuts = cuts[cuts < np.max(reference)]  # above the largest number nothing of the reference lies
    number = len(cuts) + 1
    counts = (np.bincount(np.searchsorted(cuts, numbers), minlength=number) for numbers in (reference, current))
    first, second = counts
    return first, second
