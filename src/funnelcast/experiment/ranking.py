"""What a ranking aims at, and what it shows.

Shape legend: V visits, C candidates a visit, k shown, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ConfigError, choices

__all__ = ["Aim", "aim_at", "top"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aim:
    """What an item is worth: a weighted sum of its reaches.

    Args:
        name: the step's name, or `value`.
        weights: [S] value of each step; one 1 and zeros for the reach of a step.
    """

    name: str
    weights: tuple[float, ...]

    @property
    def of_one_step(self) -> bool:
        """Whether the aim is the reach of one step."""
        return self.name != "value"


def aim_at(steps: Sequence[str], rank_by: str | None, values: Mapping[str, float]) -> Aim:
    """Turn the options of a simulation into an aim.

    Args:
        steps: names of the steps in funnel order.
        rank_by: the step whose reach counts; None for the last one.
        values: what each step is worth; the aim is then the expected value sum_i v_i p_i. Empty for the reach of one.

    Raises:
        ConfigError: both are given, a step is unknown, or no value is above 0.
    """
    for name in [*values, *([] if rank_by is None else [rank_by])]:
        if name not in steps:
            raise ConfigError(f"unknown step '{name}'; {choices(steps, name)}")
    if not values:
        name = steps[-1] if rank_by is None else rank_by
        return Aim(name, tuple(float(step == name) for step in steps))
    if rank_by is not None:
        raise ConfigError("a ranking should aim at the reach of a step or at values of steps, received both")
    if not all(0 <= value < float("inf") for value in values.values()) or not any(values.values()):
        raise ConfigError(f"values of steps should be numbers >= 0 with at least one above 0, received {dict(values)}")
    return Aim("value", tuple(float(values.get(step, 0.0)) for step in steps))


def top(worth: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Choose the k candidates of every visit that are worth most, in no order.

    Args:
        worth: [V, C].
        k: 1 <= k <= C.

    Returns:
        [V, k] numbers of candidates.

    Example:
        >>> np.sort(top(np.array([[0.1, 0.4, 0.3]]), 2)).tolist()
        [[1, 2]]
    """
    return np.argpartition(-worth, k - 1, axis=1)[:, :k]
