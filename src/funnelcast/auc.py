"""The exact AUC of millions of rows: one sort of whole numbers. Shape legend: N rows, P positives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["exact_auc", "ordered_integers"]

Array = NDArray[Any]


def ordered_integers(scores: Array) -> Array:
    """Map floats to unsigned whole numbers of the same order, equal ones (-0.0 and 0.0 among them) to the same number.

    m(s) = bits(s) + 2^(w-1) where s >= 0, and 2^w - 1 - bits(s) where s < 0; w = 32 or 64 bits.

    Args:
        scores: [N] float32 or float64 without NaN; infinities are allowed.

    Returns:
        [N] uint32 or uint64.

    Example:
        >>> np.unique(ordered_integers(np.array([2.0, -0.0, 0.0, -0.5])), return_inverse=True)[1].tolist()
        [2, 1, 1, 0]
    """
    width = scores.dtype.itemsize * 8
    kind = np.dtype(f"uint{width}").type
    bits = (scores + scores.dtype.type(0)).view(kind)  # the sum makes -0.0 to 0.0
    flipped: Array = bits ^ np.where(bits >> kind(width - 1), ~kind(0), kind(1 << (width - 1)))
    return flipped


def exact_auc(scores: Array, labels: Array, weights: Array | None = None) -> float:
    """Compute P(s+ > s-) + P(s+ = s-) / 2 over pairs of a positive and a negative row, each weighted by both weights.

    Args:
        scores: [N] any numbers without NaN.
        labels: [N] bool, both classes among them.
        weights: [N] float64 > 0, or None for one each.

    Example:
        >>> exact_auc(np.array([0.1, 0.4, 0.4]), np.array([False, False, True]))
        0.75
    """
    if scores.dtype == np.float16:
        scores = scores.astype(np.float32)
    if weights is not None:
        return _weighted(scores, labels, weights)
    positives = int(np.count_nonzero(labels))
    keys = _keys(scores, labels)
    won = _won_by_classes(scores[labels], scores[~labels]) if keys is None else _won_by_keys(keys)
    return won / (2 * positives * (len(labels) - positives))


def _keys(scores: Array, labels: Array) -> Array | None:
    """[N] numbers in the order of (score, label), the label in the last bit; None where they do not fit.

    They fit where scores have one sign, as probabilities and their logarithms do, or stay between -2 and 2.
    """
    if scores.dtype not in (np.float32, np.float64):
        return None
    numbers = ordered_integers(scores)
    kind = numbers.dtype.type
    numbers -= numbers.min()
    if numbers.max() >> kind(scores.dtype.itemsize * 8 - 1):
        return None
    numbers <<= kind(1)
    numbers |= labels
    return numbers


def _won_by_keys(keys: Array) -> int:
    """Twice the pairs won, a tie counting half, from numbers that end in the label; they are sorted in place."""
    keys.sort()
    last = keys.dtype.type(1)
    places = np.flatnonzero(keys & last)
    not_above = int(places.sum()) - len(places) * (len(places) - 1) // 2
    # Within a tie the negatives come first: its border lies where only the label goes up.
    border = np.flatnonzero((keys[1:] ^ keys[:-1]) == last)
    border = border[(keys[border] & last) == 0]
    negatives = border + 1 - np.searchsorted(keys, keys[border], "left")
    positives = np.searchsorted(keys, keys[border + 1], "right") - border - 1
    return 2 * not_above - int(np.dot(negatives, positives))


def _won_by_classes(positive: Array, negative: Array) -> int:
    """Twice the pairs won, a tie counting half, from the scores of the classes."""
    if len(positive) > len(negative):  # the smaller class is looked up in the larger one
        return 2 * len(positive) * len(negative) - _won_by_classes(negative, positive)
    positive, negative = np.sort(positive), np.sort(negative)
    below = int(np.searchsorted(negative, positive, "left").sum())
    not_above = int(np.searchsorted(negative, positive, "right").sum())
    return below + not_above


def _weighted(scores: Array, labels: Array, weights: Array) -> float:
    """The weighted AUC: the mass of negatives below each positive, from cumulative sums over the sorted negatives."""
    values = ordered_integers(scores) if scores.dtype == np.float32 else scores
    positive, gain = _sorted_with(values[labels], weights[labels])
    negative, cost = _sorted_with(values[~labels], weights[~labels])
    mass = np.append(0.0, np.cumsum(cost))  # mass[k]: weight of the k lowest negatives
    below = mass[np.searchsorted(negative, positive, "left")] + mass[np.searchsorted(negative, positive, "right")]
    return float(np.dot(gain, below) / (2 * gain.sum() * mass[-1]))


def _sorted_with(values: Array, weights: Array) -> tuple[Array, Array]:
    """Sort values, and their weights with them."""
    if values.dtype != np.uint32 or len(values) >> 32:
        order = np.argsort(values)
        return values[order], weights[order]
    # One sort of 64 bits, value above payload, costs half of an argsort. A weight that 32 bits hold is its own payload.
    with np.errstate(over="ignore"):
        short = weights.astype(np.float32)
    direct = bool((short == weights).all())
    packed = values.astype(np.uint64) << np.uint64(32)
    packed |= short.view(np.uint32) if direct else np.arange(len(values), dtype=np.uint32)
    packed.sort()
    payload = packed.astype(np.uint32)
    packed >>= np.uint64(32)
    return packed.astype(np.uint32), payload.view(np.float32).astype(np.float64) if direct else weights[payload]
