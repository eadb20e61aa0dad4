"""Sample-ratio mismatch: whether the arms got the share of users that they were meant to get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from funnelcast.errors import ConfigError
from funnelcast.experiment.shares import are_shares

__all__ = ["MISMATCH_LEVEL", "SampleRatio", "sample_ratio"]

MISMATCH_LEVEL = 0.001  # a test that is run on every experiment has to cry wolf rarely


@dataclass(frozen=True)
class SampleRatio:
    """Users of each arm against the planned shares.

    Args:
        counts: users of each arm.
        shares: planned share of each arm.
        p_value: of the chi-squared test that the shares are as planned.
    """

    counts: tuple[int, ...]
    shares: tuple[float, ...]
    p_value: float

    @property
    def mismatch(self) -> bool:
        """Whether the p-value is below `MISMATCH_LEVEL`: the assignment or the logging is broken."""
        return self.p_value < MISMATCH_LEVEL


def sample_ratio(counts: Sequence[int], shares: Sequence[float]) -> SampleRatio:
    """Test the numbers of users against the planned shares, chi^2 = sum (count - expected)^2 / expected.

    Args:
        counts: users of each arm, >= 0, at least one in all.
        shares: planned share of each arm, each > 0, with the sum 1.

    Raises:
        ConfigError: the numbers are out of range.

    Source: Fabijan et al., KDD 2019, "Diagnosing sample ratio mismatch in online controlled experiments".

    Example:
        >>> check = sample_ratio([50_300, 49_700], [0.5, 0.5])
        >>> round(check.p_value, 4), check.mismatch
        (0.0578, False)
    """
    from scipy import stats  # a fifth of a second that most commands need not wait for

    fits = len(counts) == len(shares) > 1 and min(counts) >= 0 and sum(counts) > 0
    if not (fits and are_shares(shares)):
        raise ConfigError(
            f"arms should have counts >= 0 and shares > 0 with the sum 1, received {list(counts)} and {list(shares)}"
        )
    expected = [share * sum(counts) for share in shares]
    return SampleRatio(tuple(counts), tuple(shares), float(stats.chisquare(counts, expected).pvalue))
