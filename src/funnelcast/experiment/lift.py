"""Relative lift of one ratio over another, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from funnelcast.experiment.ratio import LEVEL, Estimate, Interval, normal_quantile
from funnelcast.metrics import Undefined

__all__ = ["Lift", "bounds", "relative_lift"]

# The relative error of a rate of counts or amounts is at most 2; beyond this a covariate took away the whole rate, and
# what is left of it may be rounding.
_LEAST_SURE = 10.0
_FARTHEST = 30.0  # of log(1 + lift): a rate 1e13 times the other; 1 + lift would lose its digits
_LARGEST = 700.0  # exp of more is no number


@dataclass(frozen=True)
class Lift:
    """A relative lift, other / base - 1.

    Args:
        value: >= -1.
        log_error: standard error of log(1 + value).
    """

    value: float
    log_error: float

    def interval(self, level: float = LEVEL) -> Interval | Undefined:
        """Return (1 + value) exp(-+ z * log error) - 1, or why it is not defined.

        On the log scale the interval never goes below -1 and does not depend on which arm is called the base.

        Args:
            level: confidence level, in (0, 1).
        """
        if self.log_error == 0:
            return Undefined("the two arms do not differ in any cluster")
        return bounds(math.log1p(self.value), normal_quantile(level) * self.log_error)


def bounds(middle: float, half: float) -> Interval | Undefined:
    """Return exp(middle -+ half) - 1, the interval of a lift, or why it is not defined.

    Args:
        middle: log(1 + lift).
        half: half the width on that scale.

    Example:
        >>> low, high = bounds(math.log(2), math.log(4))
        >>> round(low, 6), round(high, 6)
        (-0.5, 7.0)
    """
    if not middle + half <= _LARGEST:
        return Undefined("the interval is too wide to be a number")
    return math.expm1(middle - half), math.expm1(middle + half)


def relative_lift(base: Estimate | Undefined, other: Estimate | Undefined) -> Lift | Undefined:
    """Compute the lift of one estimate over another by the delta method.

    Var(log(b / a)) = sum_u (influence_b,u / b - influence_a,u / a)^2. The estimates have to be over the same clusters
    in the same order: where each cluster was in one arm only the covariance is 0 by itself, and where every cluster was
    in both (paired), it is what makes the interval narrow.

    Args:
        base: a, > 0 or else the lift is not defined.
        other: b, > 0 or else the lift is not defined.

    Returns:
        The lift, or why it is not defined: besides rates of 0, rates that are nothing beside their error, as a
        covariate can leave them, and rates that are too far apart for a ratio.

    Source: Deng, Knoblich and Lu, KDD 2018, section 3.

    Example:
        >>> import numpy as np
        >>> from funnelcast.experiment.ratio import ratio
        >>> shown = np.array([10, 10, 0, 0]), np.array([0, 0, 10, 10])
        >>> a, b = ratio(np.array([2, 4, 0, 0]), shown[0]), ratio(np.array([0, 0, 4, 8]), shown[1])
        >>> lift = relative_lift(a, b)
        >>> round(lift.value, 6), round(lift.log_error, 6)
        (1.0, 0.471405)
    """
    for arm in (base, other):
        if isinstance(arm, Undefined):
            return arm
    assert isinstance(base, Estimate) and isinstance(other, Estimate)
    if base.influence.shape != other.influence.shape:
        raise ValueError(
            f"both arms should be over the same clusters, received {base.influence.shape} and {other.influence.shape}"
        )
    if base.value <= 0 or other.value <= 0:
        return Undefined("an arm has no events")
    if any(arm.standard_error > _LEAST_SURE * arm.value for arm in (base, other)):
        return Undefined("the rate of an arm is too near to 0 for its error")
    if abs(math.log(other.value) - math.log(base.value)) > _FARTHEST:
        return Undefined("the rates of the two arms are too far apart")
    influence = other.influence / other.value - base.influence / base.value
    return Lift(other.value / base.value - 1, math.sqrt(float(influence @ influence)))
