"""Bootstrap by user: what the AUC would be on other rows of other users, exactly and for many resamples at once.

Shape legend: N rows, C clusters, R resamples, P different scores of positive rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import poisson

from funnelcast.significance.delong import Outcome

__all__ = ["percentile_interval", "resampled_auc"]

Array = NDArray[Any]
_CELLS = 8_000_000  # numbers of a block of resamples that are in memory at once
_BLOCK = 64  # resamples of a block, a few cache lines of counts for each row
# Poisson(1) by inversion: how often a cluster comes, for each value of 16 random bits.
_COUNTS = np.searchsorted(poisson.cdf(np.arange(12), 1.0), (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float64)


def resampled_auc(scores: Array, outcome: Outcome, resamples: int, seed: int) -> Array:
    """Compute the exact weighted AUC in every resample; a cluster's rows come Poisson(1) times, all together.

    Only the order matters: negatives between two neighbouring positive scores are one bin, so that a resample's AUC is
    a product of the clusters' counts with a sparse matrix [P+1, C] that is made once.

    Args:
        scores: [N] numbers without NaN.
        outcome: labels, weights and clusters of the rows; without clusters every row is one.
        resamples: R >= 1.
        seed: the same seed draws the same counts, so that two models' values of a resample can be subtracted.

    Returns:
        [R] float64; NaN in a resample without a positive or without a negative row.

    Source: Efron 1979; Poisson counts after Chamandy et al. 2012, "Estimating uncertainty for massive data streams".
    """
    labels, weight = outcome.labels, outcome.mass()
    clusters = np.arange(len(labels)) if outcome.clusters is None else outcome.clusters
    many = int(clusters.max()) + 1
    points, place = np.unique(scores[labels], return_inverse=True)
    # A negative in bin b lies below the positive scores b, b+1, ...; a tied one lies half in its bin, half in the next.
    negative, owner, half = scores[~labels], clusters[~labels], weight[~labels] / 2
    low, high = np.searchsorted(points, negative, "left"), np.searchsorted(points, negative, "right")
    tied = low < high
    gain = csr_matrix((weight[labels], (place, clusters[labels])), (len(points), many))
    cost = csr_matrix(
        (
            np.append(np.where(tied, half, 2 * half), half[tied]),
            (np.append(low, high[tied]), np.append(owner, owner[tied])),
        ),
        (len(points) + 1, many),
    )
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    block = max(1, min(_BLOCK, _CELLS // (many + 2 * len(points))))
    found = np.empty(resamples)
    for start in range(0, resamples, block):
        # Drawn a resample at a time, so that the counts do not depend on the size of a block.
        size = min(block, resamples - start)
        bits = [draw.integers(0, 1 << 16, many, dtype=np.uint16) for _ in range(size)]
        counts = _COUNTS[np.stack(bits, axis=1)]  # [C, r]
        positives = gain @ counts  # [P, r]
        below = np.cumsum(cost @ counts, axis=0)  # [P+1, r]
        with np.errstate(invalid="ignore"):
            won = np.einsum("pr,pr->r", positives, below[:-1])
            found[start : start + size] = won / (positives.sum(axis=0) * below[-1])
    return found


def percentile_interval(values: Array, confidence: float = 0.95) -> tuple[float, float] | None:
    """Take the interval between two quantiles of resampled values.

    Args:
        values: [R]; NaN where a resample has no value.
        confidence: coverage, in (0, 1).

    Returns:
        The interval, or None where more than 1 % of the resamples have no value, as with four clusters that hold a
        positive: e^-4 of the resamples hold none.

    Example:
        >>> [round(bound, 6) for bound in percentile_interval(np.arange(101.0), 0.9)]
        [5.0, 95.0]
    """
    if np.isnan(values).mean() > 0.01:
        return None
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
