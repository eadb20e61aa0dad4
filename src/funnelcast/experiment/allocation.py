"""Which variant a user gets while shares change: every change moves as few users as it can.

Shape legend: U users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ConfigError
from funnelcast.experiment.assignment import places
from funnelcast.experiment.shares import are_shares, check_shares

__all__ = ["Allocation"]

_ROUNDING = 1e-12  # a part that is narrower has come about by rounding


@dataclass(frozen=True)
class Allocation:
    """The line from 0 to 1 cut into parts, each of which is a variant's; a user's hash is a place on it.

    No rule that looks at the shares alone moves only the users it must in every change of three or more variants, so
    the parts are kept: whoever serves saves `parts` and passes them on to the next change.

    Args:
        parts: (variant, width) from 0 on, widths above 0 with the sum 1.

    Raises:
        ConfigError: the parts do not fill the line.

    Example:
        >>> start = Allocation.of({"control": 0.9, "treatment": 0.1})
        >>> half = start.reweighed({"control": 0.5, "treatment": 0.5})
        >>> [(variant, round(width, 6)) for variant, width in half.parts]
        [('control', 0.5), ('treatment', 0.5)]
        >>> start.assign(["ann", "bob"], "spring"), half.assign(["ann", "bob"], "spring")
        (['control', 'control'], ['treatment', 'control'])
    """

    parts: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        widths = [width for _, width in self.parts]
        if not are_shares(widths):
            raise ConfigError(f"widths of the parts should be above 0 with the sum 1, received {widths}")

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> Allocation:
        """Begin with shares.

        Args:
            shares: variant -> share of the users, >= 0 with the sum 1; one with the share 0 gets nobody.

        Raises:
            ConfigError: the shares are no shares.
        """
        check_shares(shares, zero=True)
        return cls(tuple((name, share) for name, share in shares.items() if share > 0))

    @property
    def shares(self) -> dict[str, float]:
        """Variant -> share of the users."""
        found: dict[str, float] = {}
        for name, width in self.parts:
            found[name] = found.get(name, 0.0) + width
        return found

    def reweighed(self, shares: Mapping[str, float]) -> Allocation:
        """Change the shares: who leaves a variant was in one that shrinks, and goes to one that grows.

        The share of users that move is sum_v |new_v - old_v| / 2, the least there is.

        Args:
            shares: variant -> share of the users, >= 0 with the sum 1; variants may come and go.

        Raises:
            ConfigError: the shares are no shares.
        """
        check_shares(shares, zero=True)
        before = self.shares
        surplus = {name: share - shares.get(name, 0.0) for name, share in before.items()}
        growth = {name: share - before.get(name, 0.0) for name, share in shares.items()}
        wanted = {name: more for name, more in growth.items() if more > _ROUNDING}
        parts: list[tuple[str, float]] = []
        # From the end on, so that a variant keeps the users it had first.
        for name, width in reversed(self.parts):
            left = width
            while wanted and left > _ROUNDING and surplus[name] > _ROUNDING:
                target = next(iter(wanted))
                moved = min(left, surplus[name], wanted[target])
                parts.append((target, moved))
                left, surplus[name] = left - moved, surplus[name] - moved
                wanted[target] -= moved
                if wanted[target] <= _ROUNDING:
                    del wanted[target]
            if left > _ROUNDING:
                parts.append((name, left))
        return Allocation(_joined(reversed(parts)))

    def assign(self, users: Iterable[str | int], salt: str) -> list[str]:
        """Name the variant of each user.

        Args:
            users: user ids; a number counts as its decimal text.
            salt: the experiment's name; it stays while shares change.
        """
        return [self.parts[number][0] for number in self._numbers(users, salt).tolist()]

    def _numbers(self, users: Iterable[str | int], salt: str) -> NDArray[np.int64]:
        """[U] number of each user's part."""
        borders = list(accumulate(width for _, width in self.parts))
        number = np.searchsorted(borders, places(users, salt), side="right")
        return np.minimum(number, len(self.parts) - 1)


def _joined(parts: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Join neighbours of one variant."""
    found: list[tuple[str, float]] = []
    for name, width in parts:
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + width)
        else:
            found.append((name, width))
    return tuple(found)
