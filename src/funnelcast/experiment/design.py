"""How many users an experiment needs, how long that takes, and what can be seen with those there are.

All of it is on the scale of log(1 + lift), on which `lift.relative_lift` tests: with N users, shares s_a and s_b of the
base and its rival, and v = U Var(log r) of one user (U users in the history, r the rate),

    Var(log(r_b / r_a)) = v (1 / s_a + 1 / s_b) / N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from funnelcast.errors import ConfigError
from funnelcast.experiment.ratio import normal_quantile
from funnelcast.experiment.sequence import radius, tightest
from funnelcast.experiment.shares import check_shares

__all__ = ["Plan", "StepVariance", "binomial_step", "days_needed", "detectable_lift", "users_needed"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Plan:
    """What an experiment should be able to do.

    Args:
        lift: relative lift that it should find, > 0.
        power: chance to find it, in (0, 1).
        alpha: chance to call arms different that are not, in (0, 1).
        shares: variant -> share of the users, the base first, at least two, with the sum 1.
        tests: number of steps and rivals that share alpha, as if by Bonferroni; >= 1.

    Raises:
        ConfigError: a number is out of range.
    """

    lift: float = 0.05
    power: float = 0.8
    alpha: float = 0.05
    shares: Mapping[str, float] = field(default_factory=lambda: {"control": 0.5, "treatment": 0.5})
    tests: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.lift < math.inf:
            raise ConfigError(f"lift should be above 0, received {self.lift}")
        for name in ("power", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} should be above 0 and below 1, received {getattr(self, name)}")
        check_shares(self.shares, least=2)
        if self.tests < 1:
            raise ConfigError(f"tests should be at least 1, received {self.tests}")

    @property
    def split(self) -> float:
        """1 / s_a + 1 / s_b of the base and its smallest rival."""
        base, *rivals = self.shares.values()
        return 1 / base + 1 / min(rivals)

    def multiple(self, *, always_valid: bool) -> float:
        """Return by how many standard errors the effect has to exceed 0: of the test, and of the power.

        Args:
            always_valid: for a confidence sequence that is tightest at the planned end, and not for one look.
        """
        alpha = self.alpha / self.tests
        test = radius(1.0, math.sqrt(tightest(alpha)), alpha) if always_valid else normal_quantile(1 - alpha)
        return test + NormalDist().inv_cdf(self.power)


@dataclass(frozen=True)
class StepVariance:
    """What is known of a step before the experiment.

    Args:
        name: of the step.
        rate: r, events a unit, > 0.
        log_variance: v = U Var(log r), >= 0.
        explained: share of the variance that a covariate takes out, in [0, 1]; None without one.
        design_effect: v over that of independent units; None where it is not known.
    """

    name: str
    rate: float
    log_variance: float
    explained: float | None = None
    design_effect: float | None = None


def binomial_step(
    name: str, rate: float, units: float = 1.0, design_effect: float = 1.0, lift: float = 0.0
) -> StepVariance:
    """Guess the variance of a step from its rate alone: v = D (1 - p) / (p m).

    Args:
        name: of the step.
        rate: p in (0, 1).
        units: m, exposures a user, >= 1; 1 for rates a user.
        design_effect: D >= 1, by how much the exposures of a user resemble each other; from a history it is measured.
        lift: that should be found; p (1 + lift) has to be a rate as well, at most 1.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> binomial_step("click", 0.2).log_variance
        4.0
    """
    if not 0 < rate < 1:
        raise ConfigError(f"rate of '{name}' should be above 0 and below 1, received {rate}")
    if not rate * (1 + lift) <= 1 + _ROUNDING:
        raise ConfigError(
            f"rate of '{name}' with the lift should be at most 1, received {rate:g} * (1 + {lift:g}) = "
            f"{rate * (1 + lift):g}"
        )
    for what, number in (("exposures a user", units), ("design effect", design_effect)):
        if not 1 <= number < math.inf:
            raise ConfigError(f"{what} should be at least 1, received {number}")
    return StepVariance(name, rate, design_effect * (1 - rate) / (rate * units), design_effect=design_effect)


def users_needed(log_variance: float, plan: Plan, *, always_valid: bool = False) -> int:
    """Compute N = (k + z_power)^2 v (1 / s_a + 1 / s_b) / log(1 + lift)^2, rounded up.

    k = z_(1 - alpha/2) for a single look, the least multiple of `sequence.tightest` for an always-valid test. Both arms
    have the variance of the base, which for a lift above 0 asks for a little more than needed.

    Args:
        log_variance: v of one user.
        plan: what the experiment should be able to do.
        always_valid: whether one may look at any time.

    Returns:
        Users of all arms together.

    Source: Cochran's rule for two means, as in van Belle 2008, "Statistical rules of thumb", chapter 2, with the delta
        method of Deng, Knoblich and Lu, KDD 2018, for the variance.

    Example:
        >>> users_needed(4.0, Plan(lift=0.05)), users_needed(4.0, Plan(lift=0.05), always_valid=True)
        (52755, 101016)
    """
    multiple = plan.multiple(always_valid=always_valid)
    return math.ceil(multiple**2 * log_variance * plan.split / math.log1p(plan.lift) ** 2)


def detectable_lift(log_variance: float, users: int, plan: Plan, *, always_valid: bool = False) -> float:
    """Compute the lift that N users find with the planned power, exp((k + z_power) sqrt(v (1/s_a + 1/s_b) / N)) - 1.

    Args:
        log_variance: v of one user.
        users: N of all arms together, >= 1.
        plan: its lift is not looked at.
        always_valid: whether one may look at any time.

    Raises:
        ConfigError: there are no users.

    Example:
        >>> round(detectable_lift(4.0, 52_755, Plan()), 6)
        0.05
    """
    if users < 1:
        raise ConfigError(f"users should be at least 1, received {users}")
    return math.expm1(plan.multiple(always_valid=always_valid) * math.sqrt(log_variance * plan.split / users))


def days_needed(users: int, newcomers: Sequence[float]) -> int | None:
    """Count the days until so many users have come.

    Args:
        users: how many are needed.
        newcomers: users that are new on the first day, the second and so on; after the last one, days go on as the
            mean of their later half.

    Returns:
        Days, or None where nobody comes any more.

    Example:
        >>> days_needed(100, [30, 20, 10, 10]), days_needed(65, [30, 20, 10, 10]), days_needed(9, [])
        (7, 4, None)
    """
    come = 0.0
    for day, count in enumerate(newcomers, start=1):
        come += count
        if come >= users:
            return day
    later = list(newcomers)[len(newcomers) // 2 :]
    pace = sum(later) / len(later) if later else 0.0
    return len(newcomers) + math.ceil((users - come) / pace) if pace > 0 else None
