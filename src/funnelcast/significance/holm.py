"""Holm's step-down: many tests at once, and still at most alpha that any true one is rejected."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values: the k-th smallest of m becomes max over j <= k of min(1, (m - j + 1) p_(j)).

    Args:
        p_values: of all tests that one table makes, each in [0, 1].

    Returns:
        Adjusted p-values in the order given; reject those below alpha.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> [round(p, 3) for p in holm([0.03, 0.01, 0.02])]
        [0.04, 0.03, 0.04]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
