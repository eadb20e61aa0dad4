"""Whether shares split all users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from funnelcast.errors import ConfigError

__all__ = ["are_shares", "check_shares"]

_ROUNDING = 1e-9


def are_shares(values: Sequence[float]) -> bool:
    """Say whether numbers are above 0 with the sum 1; NaN is not.

    Args:
        values: the numbers.

    Example:
        >>> are_shares([0.9, 0.1]), are_shares([1.5, -0.5]), are_shares([])
        (True, False, False)
    """
    return all(value > 0 for value in values) and abs(sum(values) - 1) <= _ROUNDING


def check_shares(shares: Mapping[str, float], *, least: int = 1, zero: bool = False) -> None:
    """Refuse shares that do not split all users; the first one that is no share is named.

    Args:
        shares: variant -> share of the users.
        least: how many variants there should be, 1 or 2.
        zero: whether a variant may get nobody.

    Raises:
        ConfigError: there are too few, one is no number or out of range, or their sum is not 1.

    Example:
        >>> check_shares({"control": 0.9, "treatment": 0.1})
    """
    several = "two or more, " if least > 1 else ""
    wanted = f"shares should be {several}{'0 or more' if zero else 'above 0'} with the sum 1"
    for name, share in shares.items():
        # NaN is neither above nor below anything, so what should hold is asked.
        if not ((share >= 0 if zero else share > 0) and share < math.inf):
            raise ConfigError(f"{wanted}, received {share} for '{name}'")
    if len(shares) < least or abs(sum(shares.values()) - 1) > _ROUNDING:
        raise ConfigError(f"{wanted}, received {dict(shares)}")
