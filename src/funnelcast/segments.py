"""Rows of a split, cut by a field, by how often TRAIN shows its value, by time, or by how active the user is.

Shape legend: n rows looked at, P pairs of a row and one of its values (a multi-valued field has several a row).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from funnelcast.curves import equal_mass_bins
from funnelcast.data.encode import Encoders
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError, choices
from funnelcast.layers import check_at_least
from funnelcast.schema import NULL_ID, TIME_COLUMN, UNKNOWN_ID, USER_COLUMN, field_column

__all__ = ["MIN_ROWS", "MOST", "Column", "Segment", "Segmentation", "Segmenter"]

Array = NDArray[Any]
Index = NDArray[np.int64]
Kind = Literal["field", "frequency", "time", "user"]
MIN_ROWS = 100  # a value with fewer rows is pooled
MOST = 50  # values of a field that stand alone
TIME_BINS = 10
_UNITS = ("day", "week", "month", "bins")
_ACTIVITIES = ("train", "split")
_NAMES = ("null", "unknown")  # of the ids 0 and 1
_OTHER = "other"
_MONDAY = np.datetime64("1969-12-29", "D")


@dataclass(frozen=True)
class Column:
    """What rows are cut by.

    Args:
        word: as the user wrote it.
        kind: `field`, `frequency`, `time` or `user`.
        argument: a field's name; `day`, `week`, `month` or `bins`; `train` or `split`.
    """

    word: str
    kind: Kind
    argument: str


@dataclass(frozen=True)
class Segment:
    """Rows that have something in common.

    Args:
        value: what they have in common, in words.
        rows: [at least 1] places among the rows looked at, ascending.
    """

    value: str
    rows: Index


@dataclass(frozen=True)
class Segmentation:
    """All segments of one column.

    Args:
        column: what the rows were cut by.
        overlapping: whether a row may lie in several segments, as one with several values does.
        segments: those that have rows.
    """

    column: Column
    overlapping: bool
    segments: tuple[Segment, ...]


def _cut(row: Index, code: Index, names: Sequence[str]) -> tuple[Segment, ...]:
    """Pairs of a row and a code, [P] each -> one segment a code that has rows, in the order of the codes."""
    pairs = np.unique(code * (row.max(initial=0) + 1) + row)  # a row with two values of one code counts once
    code, row = np.divmod(pairs, row.max(initial=0) + 1)
    borders = np.searchsorted(code, np.arange(len(names) + 1))
    parts = zip(names, borders[:-1], borders[1:], strict=True)
    return tuple(Segment(name, row[start:stop]) for name, start, stop in parts if stop > start)


def _items(column: pa.Array) -> tuple[Index, Index]:
    """Row and id of every value, [P] each, a value once a row.

    A later 0 of a multi-valued field is padding, as it is for the models.
    """
    if not pa.types.is_list(column.type):
        ids = column.to_numpy(zero_copy_only=False).astype(np.int64)
        return np.arange(len(ids)), ids
    lengths = np.diff(column.offsets.to_numpy())
    row, ids = np.repeat(np.arange(len(lengths)), lengths), column.flatten().to_numpy().astype(np.int64)
    first = np.append(True, row[1:] != row[:-1])[: len(row)]
    kept, empty = first | (ids != NULL_ID), np.flatnonzero(lengths == 0)
    size = ids.max(initial=0) + 1
    row, ids = np.divmod(np.unique(np.append(row[kept] * size + ids[kept], empty * size + NULL_ID)), size)
    return row, ids


def _quartiles(counts: Index) -> tuple[Index, list[str]]:
    """Quartiles of counts > 0, each of about a quarter of what is counted: a number for each count, and names."""
    if not len(counts):
        return np.zeros(0, np.int64), []
    number = equal_mass_bins(counts, counts, 4).astype(np.int64)
    return number, [_range(f"{c.min():,}", f"{c.max():,}") for c in (counts[number == q] for q in np.unique(number))]


def _counted(number: str, noun: str) -> str:
    return f"{number} {noun}{'' if number == '1' else 's'}"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


class Segmenter:
    """Cuts rows of a split of a prepared folder.

    Args:
        data: the prepared folder.
        split: the part.
        rows: [n] the rows to look at, ascending; None for all.
        min_rows: values of a field with fewer rows are pooled into `other`, >= 1.
        most: beyond this number of values those with the fewest rows are pooled as well, >= 1.

    Raises:
        ConfigError: an option is too small.
        DataError: the split has no rows.
    """

    def __init__(
        self, data: PreparedData, split: Split, *, rows: Index | None = None, min_rows: int = MIN_ROWS, most: int = MOST
    ) -> None:
        check_at_least(1, min_rows=min_rows, most=most)
        if not data.rows(split):
            raise DataError(f"{data.folder}: the split '{split.value}' should have rows, received none")
        self._data, self._split, self._rows = data, split, rows
        self._min_rows, self._most = min_rows, most

    @cached_property
    def _encoders(self) -> Encoders:
        return Encoders.load(self._data.folder / "encoders.json")

    @cached_property
    def _shard_columns(self) -> pa.Schema:
        return self._data.columns(self._split)

    def parse(self, words: Sequence[str]) -> list[Column]:
        """Read columns, each once.

        Args:
            words: `FIELD` or `field:FIELD`, `frequency:FIELD`, `time:day|week|month|bins`, `user:train|split`.

        Raises:
            ConfigError: a column is unknown, has two meanings, or the data lack it.
        """
        return [self._parse(word) for word in dict.fromkeys(words)]

    def _parse(self, word: str) -> Column:
        fields = [field.name for field in self._data.schema.fields]
        kind, colon, argument = word.partition(":")
        known = {"field": fields, "frequency": fields, "time": _UNITS, "user": _ACTIVITIES}
        reserved = bool(colon) and kind in known
        if word in fields:
            if reserved:
                raise ConfigError(
                    f"column '{word}' is the name of a field as well as a reserved word; write 'field:{word}' for the "
                    "field, or prepare it under another name"
                )
            return Column(word, "field", word)
        if not reserved:
            others = ["frequency:FIELD", *(f"time:{unit}" for unit in _UNITS), *(f"user:{a}" for a in _ACTIVITIES)]
            raise ConfigError(f"there is no column '{word}'; {choices([*fields, *others], word)}")
        if argument not in known[kind]:
            raise ConfigError(f"column '{word}': there is no '{argument}'; {choices(known[kind], argument)}")
        if kind == "user" and not self._data.schema.has_user:
            raise ConfigError(f"column '{word}': the data have no user; the dataset file may name one by 'user'")
        if kind == "time":
            self._check_time(word, argument)
        return Column(word, cast(Kind, kind), argument)

    def _check_time(self, word: str, unit: str) -> None:
        if TIME_COLUMN not in self._shard_columns.names:
            raise ConfigError(f"column '{word}': the data have no time; the dataset file may name one by 'time'")
        if unit != "bins" and not pa.types.is_timestamp(self._shard_columns.field(TIME_COLUMN).type):
            raise ConfigError(f"column '{word}': the time is a plain number without days; use 'time:bins'")

    def cut(self, column: Column) -> Segmentation:
        """Cut the rows by a column.

        Args:
            column: from `parse`.

        Raises:
            DataError: TRAIN, whose counts are asked for, has no rows.
            ArtifactError: a shard or the encoders are missing or damaged.
        """
        if column.kind == "time":
            return Segmentation(column, False, self._by_time(column.argument))
        if column.kind == "user":
            return Segmentation(
                column, False, self._by_user(Split.TRAIN if column.argument == "train" else self._split)
            )
        (field,) = [field for field in self._data.schema.fields if field.name == column.argument]
        row, ids = _items(self._read(field_column(field.name)))
        code, names = self._by_value(field.name, ids) if column.kind == "field" else self._by_frequency(field.name)
        return Segmentation(column, field.max_length > 1, _cut(row, code[ids], names))

    def _read(self, name: str, split: Split | None = None) -> pa.Array:
        """One column of the rows looked at, or of all rows of another split."""
        if split is not None:
            if not self._data.rows(split):
                raise DataError(f"{self._data.folder}: the split '{split.value}' should have rows, received none")
            return self._data.column(split, name).combine_chunks()
        column = self._data.column(self._split, name)
        return (column if self._rows is None else column.take(pa.array(self._rows))).combine_chunks()

    def _by_value(self, field: str, ids: Index) -> tuple[Index, list[str]]:
        """Code of every id up to the largest one, and the names of the codes: null, unknown, values, other."""
        counts = np.bincount(ids, minlength=2)
        large = np.flatnonzero(counts >= self._min_rows)
        large = large[large > UNKNOWN_ID]
        kept = np.sort(large[np.argsort(-counts[large], kind="stable")][: self._most])
        code = np.full(len(counts), 2 + len(kept))
        code[[NULL_ID, UNKNOWN_ID]] = 0, 1
        code[kept] = 2 + np.arange(len(kept))
        name_of = self._encoders.value_names(field)
        names = [name_of(int(value)) for value in kept]
        # A value may be called like one of our words.
        return code, [*_NAMES, *(f'"{name}"' if name in (*_NAMES, _OTHER) else name for name in names), _OTHER]

    def _by_frequency(self, field: str) -> tuple[Index, list[str]]:
        """Code of every id of the field, and the names of the codes: null, unknown, not on TRAIN, quartiles."""
        size = next(f.size for f in self._data.schema.fields if f.name == field)
        counts = np.bincount(_items(self._read(field_column(field), Split.TRAIN))[1], minlength=size)
        shown = np.flatnonzero(counts)
        shown = shown[shown > UNKNOWN_ID]
        number, names = _quartiles(counts[shown])
        code = np.full(size, 2)
        code[[NULL_ID, UNKNOWN_ID]] = 0, 1
        code[shown] = 3 + number
        return code, [*_NAMES, "not on TRAIN", *(f"{_counted(name, 'time')} on TRAIN" for name in names)]

    def _by_user(self, split: Split) -> tuple[Segment, ...]:
        users, counts = np.unique(self._read(USER_COLUMN, split).to_numpy(), return_counts=True)
        number, names = _quartiles(counts)
        mine = self._read(USER_COLUMN).to_numpy()
        place = np.searchsorted(users, mine).clip(max=len(users) - 1)
        code = np.where(users[place] == mine, 1 + number[place], 0)
        where = "TRAIN" if split is Split.TRAIN else "the split"
        return _cut(
            np.arange(len(mine)), code, [f"not on {where}", *(f"{_counted(name, 'row')} on {where}" for name in names)]
        )

    def _by_time(self, unit: str) -> tuple[Segment, ...]:
        column = self._read(TIME_COLUMN)
        known = column.is_valid().to_numpy(zero_copy_only=False)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"))
        moments = column.filter(pa.array(known)).to_numpy(zero_copy_only=False)
        code, names = np.zeros(len(known), np.int64), ["null"]
        if len(moments):
            code[known], found = _bins(moments) if unit == "bins" else _calendar(moments, unit)
            code[known] += 1
            names += found
        return _cut(np.arange(len(known)), code, names)


def _calendar(moments: Array, unit: str) -> tuple[Index, list[str]]:
    """Number of each moment's day, week (from Monday) or month, and their names."""
    days = moments.astype("datetime64[D]")
    if unit == "month":
        days = days.astype("datetime64[M]")
    elif unit == "week":
        days = _MONDAY + (days - _MONDAY) // np.timedelta64(7, "D") * np.timedelta64(7, "D")
    distinct, number = np.unique(days, return_inverse=True)
    return number, [f"{'week of ' if unit == 'week' else ''}{day}" for day in distinct]


def _bins(moments: Array) -> tuple[Index, list[str]]:
    """Number of each moment's bin of equal mass, and the first and last moment of each."""
    dated = moments.dtype.kind == "M"
    number = equal_mass_bins(moments.view(np.int64) if dated else moments, bins=TIME_BINS).astype(np.int64)
    names = []
    for part in (moments[number == b] for b in range(int(number.max()) + 1)):
        ends = (part.min(), part.max())
        names.append(_range(*(str(end.astype("datetime64[s]")) if dated else f"{end:.12g}" for end in ends)))
    return number, names
