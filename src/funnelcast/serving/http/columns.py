"""What JSON may hold in each raw column, and how it becomes an Arrow array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from funnelcast.arrow import arrow_errors, pa
from funnelcast.data.encode import Encoders, HashBuckets, Multi, Vocabulary
from funnelcast.serving.http.refusal import RefusalError, excerpt

__all__ = ["Kind", "RawColumn", "raw_columns"]

Kind = Literal["whole", "text", "number"]
_WORDS = {"whole": "a whole number", "text": "text", "number": "a number"}
_PLURALS = {"whole": "whole numbers", "text": "text", "number": "numbers"}
_NULL = type(None)
# Types that Arrow takes as they are. It also takes 1.5 for 1, true for 1.0 and "abc" for a list, so types come first.
_AS_IS = {"whole": {int, _NULL}, "text": {str, _NULL}, "number": {float, _NULL}}
_SMALLEST, _WHOLE_END, _ID_END = -(2**63), 2**63, 2**64


@dataclass(frozen=True)
class RawColumn:
    """A raw column of a bundle.

    Args:
        name: as it was prepared.
        kind: of the value, or of each item of a list.
        several: whether a cell is a list.

    Example:
        >>> RawColumn("item", "text", several=False).array(["a", None, 7, True, 2.0]).to_pylist()
        ['a', None, '7', 'true', '2']
        >>> RawColumn("price", "number", several=False).array(["cheap"], first=4)
        Traceback (most recent call last):
        funnelcast.serving.http.refusal.RefusalError: column 'price' of row 4 should be a number or null, received ...
    """

    name: str
    kind: Kind
    several: bool

    @property
    def type(self) -> pa.DataType:
        """Type of the array."""
        kind = {"whole": pa.int64(), "text": pa.string(), "number": pa.float64()}[self.kind]
        return pa.list_(kind) if self.several else kind

    @property
    def words(self) -> str:
        """What a value should be."""
        return f"a list of {_PLURALS[self.kind]}" if self.several else _WORDS[self.kind]

    def array(self, values: Sequence[Any], first: int | None = 0) -> pa.Array:
        """Make an array of what JSON held, as `cells` brings it to the column's type.

        Args:
            values: [B] of one column.
            first: number of the first row; None where the value is the context's.

        Raises:
            RefusalError: a value is of another type or too large; it names the row.
        """
        try:
            return pa.array(self._as_is(values) or self._one_by_one(values, first), self.type)
        except arrow_errors(OverflowError):
            return pa.array(self._one_by_one(values, first), self.type)

    def cells(self, values: Sequence[Any], first: int | None = 0) -> Sequence[Any]:
        """Bring what JSON held to the column's type.

        Whole numbers may be written as 3.0; categories of text also as whole numbers or booleans, which become the
        text they have in prepared data.

        Args:
            values: [B] of one column.
            first: number of the first row; None where the value is the context's.

        Raises:
            RefusalError: a value is of another type or too large; it names the row.
        """
        found = self._as_is(values)
        if found is None or (self.kind == "whole" and not _all_fit(found, self.several)):
            return self._one_by_one(values, first)
        return found

    def cell(self, value: Any) -> Any:
        """Bring the context's value, as JSON held it, to the column's type.

        Args:
            value: of all rows.

        Raises:
            RefusalError: it is of another type or too large.
        """
        kind = type(value)
        if value is None or (not self.several and kind in _AS_IS[self.kind] and (kind is not int or _fits(value))):
            return value
        return self.cells([value], None)[0]

    def _as_is(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return the values if their types are right as they are; whole numbers may still be too large."""
        known = set(map(type, values))
        if not self.several:
            return values if known <= _AS_IS[self.kind] else None
        if not known <= {list, _NULL}:
            return None
        items = set[type]().union(*(map(type, cell) for cell in values if cell is not None))
        return values if items <= _AS_IS[self.kind] else None

    def _one_by_one(self, values: Sequence[Any], first: int | None) -> list[Any]:
        """Bring each value to its type, or name the first that cannot be."""
        made: list[Any] = []
        for number, value in enumerate(values):
            row = None if first is None else first + number
            if value is None or not self.several:
                made.append(self._item(value, row))
                continue
            if not isinstance(value, list):
                self._refuse(value, row)
            made.append([self._item(item, row) for item in value])
        return made

    def _item(self, value: Any, row: int | None) -> Any:
        made = self._number(value) if self.kind == "number" else self._category(value)
        if made is None and value is not None:
            self._refuse(value, row)
        return made

    def _category(self, value: Any) -> Any:
        """Bring a value to a whole number or text; None if it cannot be."""
        if self.kind == "text" and isinstance(value, bool):
            return "true" if value else "false"
        if self.kind == "text" and isinstance(value, str):
            return value
        if isinstance(value, float) and value.is_integer() and _SMALLEST <= value < _WHOLE_END:
            value = int(value)
        # Ids that were hashed to 64 bits without a sign are kept as text.
        if _is_whole(value) and _SMALLEST <= value < (_WHOLE_END if self.kind == "whole" else _ID_END):
            return value if self.kind == "whole" else str(value)
        return None

    @staticmethod
    def _number(value: Any) -> float | None:
        if isinstance(value, float) or (_is_whole(value) and _SMALLEST <= value < _ID_END):
            return float(value)
        return None

    def _refuse(self, value: Any, row: int | None) -> NoReturn:
        where = "the context" if row is None else f"row {row}"
        limit = " from -2^63 to 2^63-1" if _is_whole(value) and self.kind == "whole" else ""
        raise RefusalError(
            400,
            "out_of_range" if _is_whole(value) and not _fits(value) else "wrong_type",
            f"column '{self.name}' of {where} should be {self.words}{limit} or null, received {excerpt(value)}",
            row=row,
            column=self.name,
        )


def _all_fit(values: Sequence[Any], several: bool) -> bool:
    """Whether whole numbers, or the ones in lists, have 64 bits."""
    if several:
        return all(cell is None or _all_fit(cell, False) for cell in values)
    if len(values) == 1:
        return values[0] is None or _fits(values[0])
    try:
        np.array(values, np.int64)  # faster than to look for the smallest and the largest one
    except TypeError:  # there is a null among them
        return all(value is None or _fits(value) for value in values)
    except OverflowError:
        return False
    return True


def _fits(value: int) -> bool:
    return _SMALLEST <= value < _WHOLE_END


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def raw_columns(encoders: Encoders) -> dict[str, RawColumn]:
    """Derive the raw columns from what reads them.

    Args:
        encoders: of a bundle.

    Returns:
        By name, in the encoders' order.

    Example:
        >>> import pyarrow as pa
        >>> tab = Vocabulary("tab", "tab", pa.array(["home"]))
        >>> raw_columns(Encoders([tab]))
        {'tab': RawColumn(name='tab', kind='text', several=False)}
    """
    kinds: dict[str, set[str]] = {name: set() for name in encoders.raw_columns()}
    lists: set[str] = set()
    for encoder in encoders.columns:
        kinds[encoder.column].add(_kind(encoder))
        multi: Multi | None = getattr(encoder, "multi", None)
        if multi is not None and multi.separator is None:
            lists.add(encoder.column)
        elif multi is not None:
            kinds[encoder.column] = {"separated"}
    for key in (key for statistic in encoders.statistics for key in statistic.keys):
        kinds[key.column].add(_kind(key))
    return {name: RawColumn(name, _common(kinds[name]), name in lists) for name in kinds}


def _kind(encoder: object) -> str:
    if isinstance(encoder, HashBuckets):
        return "hash"
    if not isinstance(encoder, Vocabulary):
        return "number"
    return {"int64": "whole", "string": "text"}[encoder.value_type] if len(encoder.values) else "hash"


def _common(kinds: Iterable[str]) -> Kind:
    """Choose the kind that all encoders of a column can read."""
    found = set(kinds)
    if "separated" in found or "text" in found:
        return "text"
    if "whole" in found or found == {"hash", "number"}:
        return "whole"
    return "number" if "number" in found else "text"
