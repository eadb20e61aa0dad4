"""Confidence sequences: intervals and p-values that hold at every look, however often and whenever one looks."""

from __future__ import annotations

import math
from statistics import NormalDist

from funnelcast.errors import ConfigError

__all__ = ["always_valid_p", "mixing_spread", "radius", "tightest"]

_STEPS = 60  # of the fixed point, each of which gains a digit


def tightest(alpha: float) -> float:
    """Return the information x = (spread / standard error)^2 at which the multiple of the standard error is least.

    x = log(1 + x) - 2 log(alpha), solved by repetition; the paper's rho^2 stops after the first one.

    Args:
        alpha: chance of ever leaving out the truth, in (0, 1).

    Raises:
        ConfigError: alpha is not in (0, 1).

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 2024, "Time-uniform central limit
        theory and asymptotic confidence sequences".

    Example:
        >>> round(tightest(0.05), 4)
        8.212
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha should be above 0 and below 1, received {alpha}")
    x = -2 * math.log(alpha)
    for _ in range(_STEPS):
        x = math.log1p(x) - 2 * math.log(alpha)
    return x


def mixing_spread(effect: float, alpha: float, power: float = 0.8) -> float:
    """Return the spread for which a sequence is tightest when the planned effect is found with the planned power.

    spread = effect sqrt(x) / (k + z_power), with x = `tightest(alpha)` and k the multiple of the standard error there.
    It has to be chosen before the first look; a poor choice makes the sequence wider, never wrong.

    Args:
        effect: the planned effect on the scale of the estimate, not 0; for lifts log(1 + lift).
        alpha: in (0, 1).
        power: in (0, 1).

    Example:
        >>> round(mixing_spread(0.05, 0.05), 5)
        0.03696
    """
    x = tightest(alpha)
    return abs(effect) * math.sqrt(x) / (radius(1.0, math.sqrt(x), alpha) + NormalDist().inv_cdf(power))


def radius(standard_error: float, spread: float, alpha: float) -> float:
    """Return half the width of the sequence's interval at one look.

    SE sqrt((1 + 1/x) log((1 + x) / alpha^2)), x = (spread / SE)^2. With n observations of standard deviation sigma,
    SE = sigma / sqrt(n) and spread = sigma rho it is the paper's sigma sqrt(2 (n rho^2 + 1) / (n rho)^2
    log(sqrt(n rho^2 + 1) / alpha)). Written by SE it follows the information gained and not the number of users, so
    that it also holds where known users come back.

    Args:
        standard_error: of the estimate at this look, > 0.
        spread: of the mixed effects, > 0, the same at all looks.
        alpha: in (0, 1).

    Source: as `tightest`.

    Example:
        >>> round(radius(0.01, 0.03, 0.05), 6)  # 0.01 * sqrt((1 + 1/9) * log(10 / 0.0025)) = 0.01 * 3.0357
        0.030357
    """
    x = (spread / standard_error) ** 2
    return standard_error * math.sqrt((1 + 1 / x) * (math.log1p(x) - 2 * math.log(alpha)))


def always_valid_p(estimate: float, standard_error: float, spread: float) -> float:
    """Return the p-value of no effect at one look; the least one so far is valid whenever one stops.

    p = min(1, sqrt(1 + x) exp(-z^2 x / (2 (1 + x)))), z = estimate / SE: it is below alpha if and only if the interval
    of `radius` leaves out 0.

    Args:
        estimate: at this look.
        standard_error: of the estimate, > 0.
        spread: of the mixed effects, > 0, the same at all looks.

    Source: Johari, Koomen, Pekelis and Walsh, Operations Research 2022, "Always valid inference".

    Example:
        >>> round(always_valid_p(0.030357, 0.01, 0.03), 3), always_valid_p(0.0, 0.01, 0.03)
        (0.05, 1.0)
    """
    x, z = (spread / standard_error) ** 2, estimate / standard_error
    return min(1.0, math.exp(0.5 * math.log1p(x) - z * z * x / (2 * (1 + x))))
