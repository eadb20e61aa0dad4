"""What a search may try: the values of one option each, as data that no optimizer's package is needed to read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, cast

from funnelcast.errors import ConfigError, choices

__all__ = [
    "CLIP",
    "HIDDEN",
    "WEIGHT",
    "Choice",
    "IntegerRange",
    "LogUniform",
    "Parameter",
    "SearchSpace",
    "Uniform",
    "Values",
    "combinations",
    "describe",
    "grid_size",
    "identity",
    "read_parameter",
]

Values = dict[str, Any]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Make lists tuples, all the way down, so that values can be compared."""
    return tuple(_plain(part) for part in value) if isinstance(value, list | tuple) else value


def _comparable(value: Any) -> Any:
    """Make equal numbers look equal: 1 and 1.0, but not 1 and True."""
    if isinstance(value, dict):
        return {name: _comparable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(part) for part in value]
    return float(value) if _is_number(value) else value


def identity(value: Any) -> str:
    """Return one text for one value or combination, whatever the order of its names; 1 is 1.0, a list is a tuple.

    Args:
        value: a value, or name -> value.

    Example:
        >>> identity({"b": [1], "a": 2}) == identity({"a": 2.0, "b": (1,)})
        True
    """
    return json.dumps(_comparable(value), sort_keys=True)


@dataclass(frozen=True)
class Choice:
    """One of several values, which may be lists such as the widths of layers.

    Args:
        *values: at least one, all different; a list counts as the tuple of its values.

    Raises:
        ConfigError: there is no value, or one comes twice.

    Example:
        >>> Choice(64, 128).including(32)
        Choice(values=(32, 64, 128))
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", tuple(_plain(value) for value in values))
        if not values or len({*map(identity, values)}) < len(values):
            raise ConfigError(f"a choice should list different values, at least one, received {list(values)}")

    @property
    def grid(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values: none lies between others."""
        return self.values

    def including(self, value: Any) -> Choice:
        """Return this choice with a value, in front if it is new."""
        return self if identity(value) in map(identity, self.values) else Choice(value, *self.values)


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    grid: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, *self.grid)
        if not all(_is_number(number) and math.isfinite(number) for number in numbers) or not self.low < self.high:
            raise ConfigError(
                f"a range should have finite numbers low < high, received low={self.low!r}, high={self.high!r}, "
                f"grid={list(self.grid)}"
            )
        if any(not self.low <= number <= self.high for number in self.grid) or len({*self.grid}) < len(self.grid):
            raise ConfigError(
                f"a range's grid should list different numbers from {self.low} to {self.high}, "
                f"received {list(self.grid)}"
            )

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def _widened(self, value: Any) -> tuple[float, float]:
        if not _is_number(value) or not math.isfinite(value):
            raise ConfigError(f"a range from {self.low} to {self.high} cannot hold {value!r}")
        return min(self.low, value), max(self.high, value)


@dataclass(frozen=True)
class Uniform(_Range):
    """Any number of a range, all equally likely.

    Args:
        low: the smallest number.
        high: the largest number, > low.
        grid: the numbers that a grid search tries, if it may.

    Raises:
        ConfigError: low is not below high, a number is not finite, or the grid leaves the range.

    Example:
        >>> Uniform(0.0, 0.5, grid=(0.1, 0.3)).including(0.7).ends
        (0.0, 0.7)
    """

    def including(self, value: Any) -> Uniform:
        """Return the range with a number inside."""
        return Uniform(*self._widened(value), self.grid)


@dataclass(frozen=True)
class LogUniform(_Range):
    """Any number of a range whose logarithm is equally likely everywhere.

    Args:
        low: the smallest number, > 0.
        high: the largest number, > low.
        grid: the numbers that a grid search tries, if it may.

    Raises:
        ConfigError: low is not above 0 or not below high, a number is not finite, or the grid leaves the range.

    Example:
        >>> LogUniform(1e-4, 1e-2, grid=(1e-3,)).ends
        (0.0001, 0.01)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low > 0:
            raise ConfigError(f"a range of logarithms should begin above 0, received low={self.low!r}")

    def including(self, value: Any) -> LogUniform:
        """Return the range with a number > 0 inside."""
        return LogUniform(*self._widened(value), self.grid)


@dataclass(frozen=True)
class IntegerRange:
    """A whole number of a range.

    Args:
        low: the smallest number.
        high: the largest number, > low.

    Raises:
        ConfigError: a number is not whole, or low is not below high.

    Example:
        >>> IntegerRange(1, 4).grid
        (1, 2, 3, 4)
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if type(self.low) is not int or type(self.high) is not int or not self.low < self.high:
            raise ConfigError(
                f"a range of whole numbers should have low < high, received low={self.low!r}, high={self.high!r}"
            )

    @property
    def grid(self) -> tuple[int, ...]:
        """All numbers."""
        return tuple(range(self.low, self.high + 1))

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest number."""
        return self.low, self.high

    def including(self, value: Any) -> IntegerRange:
        """Return the range with a whole number inside."""
        if type(value) is not int:
            raise ConfigError(f"a range of whole numbers from {self.low} to {self.high} cannot hold {value!r}")
        return IntegerRange(min(self.low, value), max(self.high, value))


Parameter = Choice | Uniform | LogUniform | IntegerRange
SearchSpace = Mapping[str, Parameter]
KINDS = {"uniform": Uniform, "log_uniform": LogUniform, "integers": IntegerRange}

# Networks below the heads, from small to large; the paper's Single-Task has the third.
HIDDEN = Choice((64, 32), (128, 64, 32), (256, 128, 64), (512, 256, 128))
# Of a debiased loss: its smallest propensity, and its weight beside the others.
CLIP = LogUniform(0.001, 0.1, grid=(0.001, 0.01, 0.1))
WEIGHT = LogUniform(0.1, 10.0, grid=(0.1, 1.0, 10.0))


def read_parameter(value: Any) -> Parameter:
    """Read a parameter as an experiment file writes it.

    Args:
        value: a list of values, or a table with `kind`, `low`, `high` and maybe `grid`.

    Raises:
        ConfigError: it is neither, or a number is out of its range.

    Example:
        >>> read_parameter([[64], [128, 64]])
        Choice(values=((64,), (128, 64)))
        >>> read_parameter({"kind": "integers", "low": 1, "high": 4})
        IntegerRange(low=1, high=4)
    """
    if isinstance(value, list | tuple):
        return Choice(*value)
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in KINDS:
        wanted = "a list of values, or a table such as { kind = 'uniform', low = 0.0, high = 0.5 }"
        raise ConfigError(f"should be {wanted}, received {value!r}; kinds {choices(KINDS, str(kind))}")
    keys = ["kind", "low", "high", *(["grid"] if kind != "integers" else [])]
    if set(value) - set(keys) or not {"low", "high"} <= set(value):
        raise ConfigError(f"kind '{kind}' should have the keys {', '.join(keys)}, received {', '.join(value)}")
    numbers = {key: _plain(number) for key, number in value.items() if key != "kind"}
    if not isinstance(numbers.get("grid", ()), tuple):
        raise ConfigError(f"'grid' should be a list of numbers, received {value['grid']!r}")
    return cast(Parameter, KINDS[kind](**numbers))


def describe(space: SearchSpace) -> dict[str, dict[str, Any]]:
    """Return a space as JSON values, one table a parameter.

    Args:
        space: name -> parameter.

    Example:
        >>> describe({"model.layers": IntegerRange(1, 2)})
        {'model.layers': {'kind': 'integers', 'low': 1, 'high': 2}}
    """
    words = {cls: kind for kind, cls in KINDS.items()} | {Choice: "choice"}
    return {name: {"kind": words[type(p)], **json.loads(json.dumps(asdict(p)))} for name, p in space.items()}


def grid_size(space: SearchSpace) -> int:
    """Count the combinations of a grid.

    Args:
        space: name -> parameter.

    Raises:
        ConfigError: a range names no grid.
    """
    without = [name for name, parameter in space.items() if not parameter.grid]
    if without:
        raise ConfigError(
            f"a grid needs the values of {', '.join(without)}: a list, or 'grid' beside 'low' and 'high', in [tune]"
        )
    return math.prod(len(parameter.grid) for parameter in space.values())


def combinations(space: SearchSpace, *, ends: bool = False) -> Iterator[Values]:
    """Walk through all combinations of a grid, the last parameter fastest.

    Args:
        space: name -> parameter.
        ends: take the ends of ranges instead of their grids: the corners of the space.

    Example:
        >>> [*combinations({"a": Choice(1, 2), "b": Choice("x", "y")})][1]
        {'a': 1, 'b': 'y'}
    """
    for values in product(*(parameter.ends if ends else parameter.grid for parameter in space.values())):
        yield dict(zip(space, values, strict=True))
