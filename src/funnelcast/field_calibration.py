"""Calibration error within the values of a field. Shape legend: N rows, Z values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.metrics import Undefined, Value, checked_rows

__all__ = ["field_calibration"]

Array = NDArray[Any]


def field_calibration(
    probability: Array, labels: Array, values: Array, weights: Array | None = None
) -> dict[str, Value]:
    """Compare predicted with observed sums within every value of a field.

    Field-ECE = sum_z |sum_{n in z} (y - p)| / N
    Field-RCE = sum_z N_z |sum_{n in z} (y - p)| / sum_{n in z} y, over the number of rows it covers

    A value without positives has no relative error; Field-RCE leaves it out and says what share of the rows it covers.

    Args:
        probability: [N] in [0, 1].
        labels: [N] bool or {0, 1}.
        values: [N] whole numbers, the field's ids.
        weights: [N] >= 0, or None for one each.

    Returns:
        `field_ece`, `field_rce` and `field_rce_covered`, the latter in [0, 1]; undefined without rows (positives).

    Source: Pan et al., WWW 2020, "Field-aware calibration", as usually reported; there a small number in the
        denominator stands for what is left out here.

    Example:
        >>> p, y, z = np.array([0.5, 0.5, 0.2, 0.2]), np.array([1, 1, 0, 0]), np.array([7, 7, 8, 8])
        >>> {name: round(value, 4) for name, value in field_calibration(p, y, z).items()}
        {'field_ece': 0.35, 'field_rce': 0.5, 'field_rce_covered': 0.5}
    """
    labels, weight, (probability, values) = checked_rows(labels, weights, probability, values)
    if not len(labels):
        return dict.fromkeys(("field_ece", "field_rce", "field_rce_covered"), Undefined("no rows"))
    w = np.ones(len(labels)) if weight is None else weight
    place = np.unique(values, return_inverse=True)[1]
    rows, positives = np.bincount(place, w), np.bincount(place, w * labels)
    gap = np.abs(np.bincount(place, w * (labels - probability.astype(np.float64))))
    some = positives > 0
    error: dict[str, Value] = {"field_ece": float(gap.sum() / rows.sum())}
    error["field_rce"] = (
        float((rows[some] * gap[some] / positives[some]).sum() / rows[some].sum())
        if some.any()
        else Undefined(f"no positives in {len(labels)} rows")
    )
    return {**error, "field_rce_covered": float(rows[some].sum() / rows.sum())}
