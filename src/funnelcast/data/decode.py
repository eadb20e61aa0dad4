"""Ids of a field back to words: a value, or the range of numbers that a bucket holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from funnelcast.data.cells import FIRST_VALUE_ID
from funnelcast.data.encode import ColumnEncoder, Encoders
from funnelcast.data.encode_categories import HashBuckets, Vocabulary
from funnelcast.data.encode_numbers import LogRound, Quantile
from funnelcast.data.target_statistics import COUNT_SCALE
from funnelcast.errors import ConfigError, choices
from funnelcast.schema import NULL_ID, UNKNOWN_ID

__all__ = ["value_names"]

_NO_VALUE = {NULL_ID: "(missing)", UNKNOWN_ID: "(unknown)"}


def value_names(encoders: Encoders, field: str, ids: Iterable[int]) -> list[str]:
    """Name the values that ids of a field stand for.

    Args:
        encoders: of the prepared data.
        field: name of a field.
        ids: ids of the field.

    Returns:
        One text an id: the value, `bucket 7` of a hash, or the range of numbers of a bucket; `(missing)` for 0 and
        `(unknown)` for 1.

    Raises:
        ConfigError: there is no such field.

    Example:
        >>> value_names(Encoders([Quantile("age", "age", (18.0, 30.0, 45.0))]), "age", [0, 2, 3, 4])
        ['(missing)', 'below 30', '30 to below 45', '45 or more']
    """
    sources: dict[str, ColumnEncoder] = {encoder.field.name: encoder for encoder in encoders.columns}
    for statistic in encoders.statistics:
        counts = (max(0.0, math.ceil(_log_round_low(low, COUNT_SCALE))) for low in statistic.count_lows)
        quantiles = [*statistic.means, Quantile(f"{statistic.name}.count", "", tuple(counts))]
        sources |= {quantile.name: quantile for quantile in quantiles}
    if field not in sources:
        raise ConfigError(f"'{field}' should be a field of the data; {choices(sources, field)}")
    return [_NO_VALUE.get(number) or _name(sources[field], number - FIRST_VALUE_ID) for number in ids]


def _name(source: ColumnEncoder, position: int) -> str:
    """Name the value at a position among those that a field has."""
    if isinstance(source, Vocabulary):
        return str(source.values[position].as_py())
    if isinstance(source, HashBuckets):
        return f"bucket {position}"
    if isinstance(source, LogRound):
        return _log_round_range(source.seen[position], source.scale)
    assert isinstance(source, Quantile)
    return _quantile_range(source.lows, position)


def _log_round_low(number: float, scale: float) -> float:
    """Return the smallest x >= 0 whose bucket number is `number` > 0; below 0 for the bucket of 0."""
    return math.expm1((number - 0.5) / scale)


def _log_round_range(number: int, scale: float) -> str:
    """Return the numbers of a bucket of `LogRound`, which are symmetric about 0."""
    high = math.expm1((abs(number) + 0.5) / scale)
    low = _log_round_low(abs(number), scale) if number else -high
    low, high = (-high, -low) if number < 0 else (low, high)
    return f"{low:.4g} to {high:.4g}"


def _quantile_range(lows: Sequence[float], position: int) -> str:
    """Return the numbers of a bucket that begins at a low; those below all belong to the first."""
    if len(lows) == 1:
        return "any number"
    if position == 0:
        return f"below {lows[1]:g}"
    return (
        f"{lows[position]:g} to below {lows[position + 1]:g}" if position + 1 < len(lows) else f"{lows[-1]:g} or more"
    )
