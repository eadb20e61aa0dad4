"""Encoders of numbers: rounded logarithms, or buckets of equal mass.

Ids: 0 is null, 1 is unknown, buckets start at 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from funnelcast.arrow import pa
from funnelcast.data.cells import FIRST_VALUE_ID, numbers
from funnelcast.schema import NULL_ID, UNKNOWN_ID, Field

__all__ = ["LogRound", "Quantile"]

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LogRound:
    """A number's bucket is sign(x) * round(log1p(|x|) * scale); the buckets that TRAIN shows have ids.

    Args:
        name: the field's name.
        column: the raw column.
        scale: buckets per unit of log1p(|x|), > 0.
        seen: sorted bucket numbers of TRAIN; the number at position k has the id k + 2.

    Source: APEM paper, section 4.1 (Log-round of numeric features).

    Example:
        >>> price = LogRound("price", "price", 2.0, (-1, 0, 5))
        >>> price.apply(pa.array([9.99, 0.0, None, 1e6])).to_pylist()  # log1p(9.99) * 2 = 4.79
        [4, 3, 0, 1]
    """

    kind: ClassVar[str] = "log_round"
    name: str
    column: str
    scale: float
    seen: tuple[int, ...]

    @staticmethod
    def bucket_numbers(x: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.int64]:
        """Compute the bucket number of finite numbers.

        Args:
            x: [B] finite numbers.
            scale: buckets per unit of log1p(|x|).
        """
        return np.copysign(np.rint(np.log1p(np.abs(x)) * scale), x).astype(np.int64)

    @property
    def field(self) -> Field:
        """The field it makes."""
        return Field(name=self.name, size=FIRST_VALUE_ID + len(self.seen), ordered=True)

    def apply(self, values: pa.Array) -> pa.Array:
        """Encode raw values; NaN and null are null, infinite numbers unknown.

        Args:
            values: [B] raw values of the column.

        Raises:
            DataError: the values are no numbers.
        """
        return pa.array(self.ids(numbers(values, self.column)))

    def ids(self, x: npt.NDArray[np.float64]) -> Ids:
        """Compute ids of numbers; NaN is null.

        Args:
            x: [B] numbers.
        """
        finite = np.isfinite(x)
        if finite.all():  # most often; a call costs more than few rows
            return self._known_ids(x)
        ids = np.where(finite, self._known_ids(np.where(finite, x, 0.0)), np.int32(UNKNOWN_ID))
        return np.where(np.isnan(x), np.int32(NULL_ID), ids)

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """Buckets that were seen, and behind them one that no number has."""
        return np.array((*self.seen, np.iinfo(np.int64).max), np.int64)

    def _known_ids(self, x: npt.NDArray[np.float64]) -> Ids:
        wanted = self.bucket_numbers(x, self.scale)
        position = self._ends.searchsorted(wanted)
        ids = np.where(self._ends[position] == wanted, position + FIRST_VALUE_ID, UNKNOWN_ID)
        return ids.astype(np.int32)

    def value_name(self, value_id: int) -> str:
        """Write the numbers of an id from 2 on, such as `2.4 to 3.1`.

        Example:
            >>> LogRound("price", "price", 2.0, (-1, 0, 5)).value_name(4)  # expm1(4.5 / 2) to expm1(5.5 / 2)
            '8.48774 to 14.6426'
        """
        ends = (self.seen[value_id - FIRST_VALUE_ID] + np.array([-0.5, 0.5])) / self.scale
        low, high = np.sign(ends) * np.expm1(np.abs(ends))
        return f"{low:.6g} to {high:.6g}"

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs, as JSON data."""
        return {"name": self.name, "column": self.column, "scale": self.scale, "seen": list(self.seen)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Args:
            data: JSON data.
        """
        return cls(data["name"], data["column"], float(data["scale"]), tuple(int(n) for n in data["seen"]))


@dataclass(frozen=True)
class Quantile:
    """Buckets of about equal mass on TRAIN; equal values always share a bucket.

    Args:
        name: the field's name.
        column: the raw column.
        lows: sorted lowest values of the buckets; bucket k has the id k + 2, and values below all fall into the first.

    Example:
        >>> age = Quantile("age", "age", (18.0, 30.0, 45.0))
        >>> age.apply(pa.array([17, 30, 44, 99, None])).to_pylist()
        [2, 3, 3, 4, 0]
    """

    kind: ClassVar[str] = "quantile"
    name: str
    column: str
    lows: tuple[float, ...]

    @property
    def field(self) -> Field:
        """The field it makes."""
        return Field(name=self.name, size=FIRST_VALUE_ID + len(self.lows), ordered=True)

    def apply(self, values: pa.Array) -> pa.Array:
        """Encode raw values; NaN and null are null.

        Args:
            values: [B] raw values of the column.

        Raises:
            DataError: the values are no numbers.
        """
        return pa.array(self.ids(numbers(values, self.column)))

    def ids(self, x: npt.NDArray[np.float64]) -> Ids:
        """Compute ids of numbers; NaN is null.

        Args:
            x: [B] numbers.
        """
        if not self.lows:
            return np.where(np.isnan(x), NULL_ID, UNKNOWN_ID).astype(np.int32)
        bucket = np.maximum(self._lows.searchsorted(x, side="right") - 1, 0)
        return np.where(np.isnan(x), NULL_ID, bucket + FIRST_VALUE_ID).astype(np.int32)

    @cached_property
    def _lows(self) -> npt.NDArray[np.float64]:
        return np.array(self.lows, np.float64)

    def value_name(self, value_id: int) -> str:
        """Write the numbers of an id from 2 on, from the lowest one to below the next bucket's.

        Example:
            >>> [Quantile("age", "age", (18.0, 30.0, 45.0)).value_name(i) for i in (2, 3, 4)]
            ['below 30', '30 to 45', 'from 45']
        """
        place = value_id - FIRST_VALUE_ID
        if len(self.lows) == 1:
            return "any number"
        if place == len(self.lows) - 1:
            return f"from {self.lows[place]:.6g}"
        following = f"{self.lows[place + 1]:.6g}"
        return f"{self.lows[place]:.6g} to {following}" if place else f"below {following}"

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs, as JSON data."""
        return {"name": self.name, "column": self.column, "lows": list(self.lows)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Args:
            data: JSON data.
        """
        return cls(data["name"], data["column"], tuple(float(low) for low in data["lows"]))
