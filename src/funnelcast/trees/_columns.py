"""Encoded fields -> the columns of numbers that trees split on.

Shape legend: B rows, W columns of ids, C columns for trees.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from funnelcast.data.encode import Encoders
from funnelcast.schema import NULL_ID, UNKNOWN_ID, Schema

__all__ = ["Column", "Columns", "Floats", "Kind"]

Kind = Literal["category", "rank", "bucket", "has"]
Floats = npt.NDArray[np.floating[Any]]
_CATEGORY_ENCODERS = {"vocabulary", "hash"}
_EXACT_FLOAT32 = 1 << 24  # whole numbers up to here are float32 numbers, larger ones would merge


@dataclass(frozen=True)
class Column:
    """One column for trees.

    `category`: the id itself, each a class of its own; null and unknown are two more. `rank`: the id as an ordered
    number, from the most frequent value to the rarest; unknown stands behind the rarest, null is missing. `bucket`: the
    number of a bucket; null and unknown are missing. `has`: 1 where one of a cell's values has the id, else 0.

    Args:
        field: name of the field.
        place: column of the batch's ids; for `has` the first of the field's columns.
        kind: how the id becomes a number.
        size: number of ids of the field.
        length: columns of the ids that are looked at, 1 but for `has`.
        id: for `has` the id that is looked for, else 0.
    """

    field: str
    place: int
    kind: Kind
    size: int
    length: int = 1
    id: int = 0

    @property
    def title(self) -> str:
        """The field, and for `has` the id."""
        return f"{self.field}={self.id}" if self.kind == "has" else self.field

    def fill(self, ids: npt.NDArray[Any], out: Floats) -> None:
        """Write the column of some rows.

        Args:
            ids: [B, W] whole numbers.
            out: [B] to be overwritten.
        """
        if self.kind == "has":
            out[:] = (ids[:, self.place : self.place + self.length] == self.id).any(axis=1)
            return
        own = ids[:, self.place]
        out[:] = own
        if self.kind == "rank":
            out[own == UNKNOWN_ID] = self.size
        if self.kind == "bucket":
            out[own == UNKNOWN_ID] = np.nan
        if self.kind != "category":
            out[own == NULL_ID] = np.nan


@dataclass(frozen=True)
class Columns:
    """All columns for trees, in order.

    Args:
        members: C columns.

    Example:
        >>> columns = Columns((Column("item", 0, "rank", 9), Column("tags", 1, "has", 6, length=2, id=3)))
        >>> columns.matrix(np.array([[4, 3, 0], [1, 2, 3], [0, 2, 0]])).tolist()
        [[4.0, 1.0], [9.0, 1.0], [nan, 0.0]]
    """

    members: tuple[Column, ...]

    @classmethod
    def of(cls, schema: Schema, encoders: Encoders, largest_category: int, indicators: int) -> Self:
        """Choose the columns of prepared data.

        Args:
            schema: the fields.
            encoders: tell numbers from categories.
            largest_category: a field of up to so many ids becomes a `category`, one of more ids a `rank`.
            indicators: columns `has` of a multi-valued field, for its first ids, unknown among them; 0 for one column
                a place in the cell instead.
        """
        words = {encoder.field.name for encoder in encoders.columns if encoder.kind in _CATEGORY_ENCODERS}
        members: list[Column] = []
        for field, place in zip(schema.fields, schema.columns, strict=False):
            if field.max_length > 1 and indicators:
                ids = range(UNKNOWN_ID, min(field.size, UNKNOWN_ID + indicators))
                members += [Column(field.name, place, "has", field.size, field.max_length, i) for i in ids]
                continue
            kind: Kind = "category" if field.size <= largest_category else "rank"
            kind = kind if field.name in words else "bucket"
            members += [Column(field.name, place + k, kind, field.size) for k in range(field.max_length)]
        return cls(tuple(members))

    @property
    def categorical(self) -> list[int]:
        """Numbers of the columns whose values have no order."""
        return [number for number, column in enumerate(self.members) if column.kind == "category"]

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """A float type that keeps every id apart."""
        return np.float32 if all(column.size <= _EXACT_FLOAT32 for column in self.members) else np.float64

    def matrix(self, ids: npt.NDArray[Any], out: Floats | None = None) -> Floats:
        """Lay rows out for trees.

        Args:
            ids: [B, W] whole numbers.
            out: [B, C] to be overwritten; None for a new one.

        Returns:
            [B, C]; NaN is missing.
        """
        found = np.empty((len(ids), len(self.members)), self.dtype) if out is None else out
        for number, column in enumerate(self.members):
            column.fill(ids, found[:, number])
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Return what `from_json` needs, as JSON data."""
        return [asdict(column) for column in self.members]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]], width: int) -> Self:
        """Read what `to_json` wrote.

        Args:
            data: JSON data.
            width: W of the ids that will come.

        Raises:
            TypeError: a column lacks a key or has another one.
            ValueError: a kind is unknown, or a column looks at ids that are not there.
        """
        members = tuple(Column(**column) for column in data)
        for column in members:
            if column.kind not in get_args(Kind) or not 0 <= column.place <= width - column.length:
                raise ValueError(f"a column should look at one of {width} ids in a known way, received {column}")
        return cls(members)
