"""Few rows -> ids in plain Python: for them, Arrow's calls a column cost more than the rows.

Shape legend: B rows, W columns of ids.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from funnelcast.data.cells import BLANKS, FIRST_VALUE_ID
from funnelcast.data.encode_categories import HashBuckets, Multi, Vocabulary
from funnelcast.data.encode_numbers import LogRound, Quantile
from funnelcast.data.ids import Ids
from funnelcast.data.target_statistics import KeyStatistics
from funnelcast.schema import NULL_ID, UNKNOWN_ID

__all__ = ["FewRows", "Repeated"]

_Values = Sequence[Any]


@dataclass(slots=True)  # not frozen, which takes longer to make: there is one a column and request
class Repeated:
    """A column with one value in all rows, which is encoded once.

    Args:
        value: of every row.
        rows: B.

    Example:
        >>> Repeated("a", 3).cells()
        ['a', 'a', 'a']
    """

    value: Any
    rows: int

    def cells(self) -> list[Any]:
        """Write the value once a row."""
        return [self.value] * self.rows


_Cells = _Values | Repeated
_Find = Callable[[_Values], list[int]]
_SMALL = 1 << 16  # values of a vocabulary up to which a dictionary, twice as fast, is worth more memory than a table
_FOR_ARRAY = 24  # numbers that NumPy encodes faster than Python
_CATEGORIES, _NUMBERS = frozenset({int, str}), frozenset({int, float})


class FewRows:
    """The encoders of a dataset for Python values; gives the very ids that `Encoders.encode` gives.

    Args:
        columns: one encoder a feature.
        statistics: target statistics.

    Attributes:
        usable: whether each raw column has one Python type that all its encoders read. If text should be read as a
            number too, Arrow has to parse it.

    Example:
        >>> import pyarrow as pa
        >>> few = FewRows([Vocabulary("tab", "tab", pa.array(["home"])), Quantile("age", "age", (18.0, 30.0))], [])
        >>> few.ids({"tab": ["home", None], "age": [40.0, 7.0]}).tolist()
        [[2, 3], [0, 2]]
    """

    def __init__(self, columns: Iterable[Any], statistics: Iterable[KeyStatistics]) -> None:
        types: dict[str, frozenset[object]] = {}
        self._find: list[tuple[str, _Find, Multi | None]] = []
        self._statistics = [(statistic, [_values(key) for key in statistic.keys]) for statistic in statistics]
        for encoder in columns:
            multi = getattr(encoder, "multi", None)
            self._find.append((encoder.column, _values(encoder), multi))
            read = _types(encoder, multi)
            types[encoder.column] = types.get(encoder.column, read) & read
        for key in (key for statistic, _ in self._statistics for key in statistic.keys):
            types[key.column] = types.get(key.column, _types(key, None)) & _types(key, None)
        self.usable = all(types.values())

    def ids(self, cells: Mapping[str, _Cells]) -> Ids:
        """Encode rows.

        Args:
            cells: [B] values of every raw column, B >= 1: text or whole numbers of 64 bits, floats, lists of them,
                and None for null, in the types that the encoders read.

        Returns:
            [B, W] int32.
        """
        found: list[list[int] | int] = []  # W lists, [B] each, or one id for all rows
        rows = 0
        for column, find, multi in self._find:
            values = cells[column]
            rows = values.rows if isinstance(values, Repeated) else len(values)
            if multi is not None:
                found += _lists(values, find, multi)
            elif isinstance(values, Repeated):
                found.append(find([values.value])[0])
            else:
                found.append(find(values))
        ids = _matrix(found, rows) if found else None
        if not self._statistics and ids is not None:
            return ids
        by_key = [
            statistic.ids_of([_ids(find, cells[key.column]) for key, find in zip(statistic.keys, finds, strict=True)])
            for statistic, finds in self._statistics
        ]
        return np.concatenate(by_key if ids is None else [ids, *by_key], axis=1)


def _matrix(found: Sequence[list[int] | int], rows: int) -> Ids:
    """Write W lists of ids [B], or ids of all rows, as [B, W]."""
    lists = [ids for ids in found if isinstance(ids, list)]
    if not lists:
        return np.repeat(np.array([found], np.int32), rows, axis=0)
    # faster than an array of lists of lists
    given = np.fromiter(chain.from_iterable(lists), np.int32).reshape(len(lists), rows).T
    if len(lists) == len(found):
        return np.ascontiguousarray(given)
    ids = np.empty((rows, len(found)), np.int32)
    ids[:] = [0 if isinstance(one, list) else one for one in found]
    ids[:, [place for place, one in enumerate(found) if isinstance(one, list)]] = given
    return ids


def _types(encoder: Any, multi: Multi | None) -> frozenset[object]:
    """Python types of a cell that an encoder reads; those of lists are written as pairs."""
    if not isinstance(encoder, Vocabulary | HashBuckets):
        return _NUMBERS
    if multi is not None and multi.separator is not None:
        # Split text is text, whatever the vocabulary holds.
        reads_text = isinstance(encoder, HashBuckets) or not len(encoder.values) or encoder.value_type == "string"
        return frozenset({str} if reads_text else ())
    read = _CATEGORIES
    if isinstance(encoder, Vocabulary) and len(encoder.values):
        read = frozenset({int if encoder.value_type == "int64" else str})
    return frozenset((list, kind) for kind in read) if multi is not None else read


def _values(encoder: Any) -> _Find:
    """Return what maps values, or the items of lists, to their ids."""
    if isinstance(encoder, Vocabulary):
        return _known(encoder)
    if isinstance(encoder, HashBuckets):
        bucket = encoder.bucket_id
        return lambda values: [NULL_ID if v is None else bucket(str(v).encode()) for v in values]
    if isinstance(encoder, Quantile):
        return _by_array(encoder, _quantile(encoder))
    assert isinstance(encoder, LogRound)
    return _by_array(encoder, _log_round(encoder))


def _ids(find: _Find, cells: _Cells) -> list[int]:
    return find([cells.value]) * cells.rows if isinstance(cells, Repeated) else find(cells)


def _known(vocabulary: Vocabulary) -> _Find:
    if not len(vocabulary.values):
        return lambda values: [NULL_ID if v is None else UNKNOWN_ID for v in values]
    if vocabulary.table is None or len(vocabulary.values) <= _SMALL:
        find = vocabulary.dictionary.get
        return lambda values: [find(v, UNKNOWN_ID) for v in values]
    low, table = vocabulary.table
    view, end = memoryview(table.data), len(table) - 1  # a view gives Python's numbers, at a third of the time

    def look_up(values: _Values) -> list[int]:
        return [NULL_ID if v is None else view[v - low] if 0 <= v - low < end else UNKNOWN_ID for v in values]

    return look_up


def _by_array(encoder: LogRound | Quantile, find: _Find) -> _Find:
    """Take NumPy for so many values that its calls cost less than what they do."""

    def look_up(values: _Values) -> list[int]:
        if len(values) < _FOR_ARRAY:
            return find(values)
        ids: list[int] = encoder.ids(np.array(values, np.float64)).tolist()  # None becomes NaN, which is null as well
        return ids

    return look_up


def _quantile(encoder: Quantile) -> _Find:
    lows = encoder.lows
    if not lows:
        return lambda values: [NULL_ID if v is None or v != v else UNKNOWN_ID for v in values]

    def bucket(v: Any) -> int:
        return NULL_ID if v is None or v != v else max(bisect_right(lows, float(v)) - 1, 0) + FIRST_VALUE_ID

    return lambda values: [bucket(v) for v in values]


def _log_round(encoder: LogRound) -> _Find:
    known, scale = {number: place + FIRST_VALUE_ID for place, number in enumerate(encoder.seen)}, encoder.scale

    def bucket(v: Any) -> int:
        if v is None or v != v:
            return NULL_ID
        exact = math.log1p(abs(v)) * scale
        if exact == math.inf:
            return UNKNOWN_ID if math.isinf(v) else from_array(v)
        number = round(exact)
        # NumPy's logarithm may differ in the last digit, which decides between two buckets at their border alone.
        if abs(exact - number) > 0.5 - 1e-9 * (1 + exact):
            return from_array(v)
        return known.get(number if v > 0 else -number, UNKNOWN_ID)

    def from_array(v: Any) -> int:
        return int(encoder.ids(np.array([v], np.float64))[0])

    return lambda values: [bucket(v) for v in values]


def _lists(cells: _Cells, find: _Find, multi: Multi) -> list[list[int]]:
    """Encode several values a cell as `max_length` lists of ids, [B] each."""
    if isinstance(cells, Repeated):
        return [ids * cells.rows for ids in _lists([cells.value], find, multi)]
    made = []
    for cell in cells:
        items = () if cell is None else cell if multi.separator is None else cell.split(multi.separator)
        items = [item.strip(BLANKS) if isinstance(item, str) else item for item in items]
        ids = find([item for item in items if item is not None and item != ""][: multi.max_length])
        made.append(ids + [NULL_ID] * (multi.max_length - len(ids)))
    return [list(ids) for ids in zip(*made, strict=True)]
