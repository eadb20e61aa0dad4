"""Power: the smallest difference that these rows can show."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["power_sentence", "smallest_difference"]


def smallest_difference(standard_error: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Compute the difference that a test of level alpha finds with the given power: (z_{1-alpha/2} + z_power) SE.

    Args:
        standard_error: SE of the difference, >= 0.
        alpha: two-sided level, in (0, 1).
        power: chance that a true difference of this size is found, in (0, 1).

    Example:
        >>> round(smallest_difference(0.01), 4)
        0.028
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error


def power_sentence(step: str, space: str, positives: int, difference: float) -> str:
    """Say what cannot be seen, with the difference rounded up to two digits.

    Args:
        step: name of the step.
        space: `reach` or `transition`.
        positives: rows on which the step happened.
        difference: the smallest that can be seen, > 0.

    Example:
        >>> power_sentence("convert", "reach", 575, 0.01991)
        "with 575 positives a difference under 0.020 in convert's reach AUC cannot be seen"
    """
    digits = max(1 - math.floor(math.log10(difference)), 0)
    scale = 10**digits
    shown = math.ceil(difference * scale - 1e-9) / scale
    return f"with {positives:,} positives a difference under {shown:.{digits}f} in {step}'s {space} AUC cannot be seen"
