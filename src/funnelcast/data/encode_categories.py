"""Encoders of categories: a vocabulary, or hash buckets; for one value a cell or several.

Ids: 0 is null, 1 is unknown, values start at 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import xxhash

from funnelcast.arrow import has_arrow, pa, pc
from funnelcast.data.cells import FIRST_VALUE_ID, ValueType, canonical, split_cells
from funnelcast.data.description import Feature
from funnelcast.schema import NULL_ID, UNKNOWN_ID, Field

__all__ = ["FEW_ROWS", "HashBuckets", "Multi", "Vocabulary"]

_HASH_SEED = 20_221_017  # any constant; another one would change the ids of prepared data
FEW_ROWS = 4096  # up to which a dictionary, where one is kept, is faster than a hash table made anew
Ids = npt.NDArray[np.int32]
_FLAGS = {"true", "false"}
_TYPES = {"int64": int, "string": str}
# A table over all whole numbers between the smallest and the largest value is taken up to this size.
_SMALL_SPAN, _SPARSEST = 1 << 16, 8  # entries in any case; entries a value


@dataclass(frozen=True)
class Multi:
    """How a cell holds several values.

    Args:
        separator: text between the values; None for list columns.
        max_length: values kept from the front.
    """

    separator: str | None
    max_length: int

    @classmethod
    def of(cls, feature: Feature) -> Multi | None:
        """Take the options of a feature; None if it is single-valued.

        Args:
            feature: a feature of the description.
        """
        return cls(feature.separator, feature.max_length) if feature.kind == "multi" else None

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> Multi | None:
        """Read what `vars` wrote.

        Args:
            data: the two options, or None.
        """
        return cls(data["separator"], int(data["max_length"])) if data is not None else None


@dataclass(frozen=True)
class _Listed:
    """Values of a vocabulary where PyArrow is not installed; has what a vocabulary then asks of an array."""

    items: list[Any]
    value_type: ValueType

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]

    def to_pylist(self) -> list[Any]:
        return self.items

    def to_numpy(self) -> npt.NDArray[np.int64]:
        return np.array(self.items, np.int64)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Each value that TRAIN shows often enough has its own id.

    Args:
        name: the field's name.
        column: the raw column.
        values: int64 or string array without null; the value at position k has the id k + 2.
        multi: how a cell holds several values, or None.

    Example:
        >>> tab = Vocabulary("tab", "tab", pa.array(["home", "shop"]))
        >>> tab.apply(pa.array(["shop", None, "news"])).to_pylist()
        [3, 0, 1]
    """

    kind: ClassVar[str] = "vocabulary"
    name: str
    column: str
    values: pa.Array
    multi: Multi | None = None

    @classmethod
    def fit(cls, name: str, column: str, values: pa.Array, multi: Multi | None = None) -> Self:
        """Take the values counted on TRAIN.

        Args:
            name: the field's name.
            column: the raw column.
            values: distinct values, the most frequent first.
            multi: how a cell holds several values, or None.

        Raises:
            DataError: the values are no categories.
        """
        return cls(name, column, pc.drop_null(canonical(values, column)), multi)

    @property
    def value_type(self) -> ValueType:
        """Type of the values."""
        if isinstance(self.values, _Listed):
            return self.values.value_type
        return "int64" if pa.types.is_int64(self.values.type) else "string"

    @property
    def field(self) -> Field:
        """The field it makes."""
        return Field(
            name=self.name,
            size=FIRST_VALUE_ID + len(self.values),
            max_length=self.multi.max_length if self.multi else 1,
        )

    def apply(self, values: pa.Array) -> pa.Array:
        """Encode raw values.

        Args:
            values: [B] raw values of the column.

        Raises:
            DataError: the values cannot be brought to the vocabulary's type.
        """
        # An empty vocabulary says nothing about the type, so it takes any category.
        wanted = self.value_type if len(self.values) else None
        if self.multi is None:
            return pa.array(self._ids(canonical(values, self.column, wanted)))
        cells = split_cells(values, self.column, self.multi.separator, self.multi.max_length, wanted)
        return cells.lists(self._ids(cells.values))

    def _ids(self, values: pa.Array) -> Ids:
        if not len(self.values):
            return np.where(pc.is_null(values).to_numpy(zero_copy_only=False), NULL_ID, UNKNOWN_ID).astype(np.int32)
        if self._flags:
            # A boolean column of TRAIN; elsewhere the same flag is often written as 0 or 1.
            values = pc.if_else(pc.equal(values, "1"), "true", pc.if_else(pc.equal(values, "0"), "false", values))
        if self.table is not None:
            return self._look_up(values, *self.table)
        if len(values) <= FEW_ROWS and "dictionary" in vars(self):
            find, unknown = self.dictionary.get, UNKNOWN_ID
            return np.fromiter((find(value, unknown) for value in values.to_pylist()), np.int32, len(values))
        found = pc.index_in(values, value_set=self.values)
        ids: Ids = pc.fill_null(found, UNKNOWN_ID - FIRST_VALUE_ID).to_numpy(zero_copy_only=False) + np.int32(
            FIRST_VALUE_ID
        )
        if values.null_count:
            ids[pc.is_null(values).to_numpy(zero_copy_only=False)] = NULL_ID
        return ids

    def value_name(self, value_id: int) -> str:
        """Write the value of an id from 2 on."""
        return str(self.values[value_id - FIRST_VALUE_ID])

    @property
    def has_table(self) -> bool:
        """Whether ids are read from a table; otherwise every call of `apply` builds a hash table of the values."""
        return self.table is not None

    def keep_dictionary(self) -> None:
        """Keep a dictionary of the values, so that few rows do not cost a hash table of all values a call."""
        if not self.has_table:
            self.dictionary  # noqa: B018

    @property
    def _flags(self) -> bool:
        return 0 < len(self.values) <= len(_FLAGS) and set(self.values.to_pylist()) <= _FLAGS

    @cached_property
    def dictionary(self) -> dict[Any, int]:
        """The id of every value in its canonical form, and of null; what is not in it is unknown."""
        ids = {value: FIRST_VALUE_ID + place for place, value in enumerate(self.values.to_pylist())}
        if self._flags:
            ids |= {digit: ids.get(word, UNKNOWN_ID) for digit, word in (("1", "true"), ("0", "false"))}
        return {**ids, None: NULL_ID}

    @cached_property
    def table(self) -> tuple[int, Ids] | None:
        """The smallest value, and the ids of it and of the whole numbers behind it; the last id is for all others."""
        if self.value_type != "int64" or not len(self.values):
            return None
        values = self.values.to_numpy()
        low = int(values.min())
        span = int(values.max()) - low + 1
        if span > max(_SMALL_SPAN, _SPARSEST * len(values)):
            return None
        table = np.full(span + 1, UNKNOWN_ID, np.int32)
        table[values - low] = np.arange(FIRST_VALUE_ID, FIRST_VALUE_ID + len(values), dtype=np.int32)
        return low, table

    @staticmethod
    def _look_up(values: pa.Array, low: int, table: Ids) -> Ids:
        known = values.fill_null(low) if values.null_count else values
        # What lies below wraps around to a number above all others.
        offset = (known.to_numpy() - low).view(np.uint64)
        np.minimum(offset, np.uint64(len(table) - 1), out=offset)
        ids: Ids = np.take(table, offset.view(np.int64), mode="clip")  # faster than an index, and lets others run
        if values.null_count:
            ids[values.is_null().to_numpy(zero_copy_only=False)] = NULL_ID
        return ids

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs, as JSON data."""
        return {
            "name": self.name,
            "column": self.column,
            "type": self.value_type,
            "values": self.values.to_pylist(),
            "multi": vars(self.multi) if self.multi else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Args:
            data: JSON data.
        """
        if data["type"] not in _TYPES:
            raise ValueError(f"a vocabulary of the type {data['type']!r}")
        if has_arrow():
            values = pa.array(data["values"], {"int64": pa.int64(), "string": pa.string()}[data["type"]])
        else:
            values = _Listed(list(data["values"]), data["type"])
            if others := [v for v in values.items if type(v) is not _TYPES[data["type"]]]:
                raise ValueError(f"a value of a vocabulary of the type {data['type']!r} that is {others[0]!r}")
        return cls(data["name"], data["column"], values, Multi.from_json(data["multi"]))


@dataclass(frozen=True)
class HashBuckets:
    """Values share a fixed number of ids: id = 2 + xxhash64(canonical text) mod buckets.

    Args:
        name: the field's name.
        column: the raw column.
        buckets: number of buckets, >= 2.
        multi: how a cell holds several values, or None.

    Example:
        >>> HashBuckets("item", "item", 1000).apply(pa.array([7, None, 7])).to_pylist()
        [319, 0, 319]
    """

    kind: ClassVar[str] = "hash"
    name: str
    column: str
    buckets: int
    multi: Multi | None = None

    @property
    def field(self) -> Field:
        """The field it makes."""
        return Field(
            name=self.name,
            size=FIRST_VALUE_ID + self.buckets,
            max_length=self.multi.max_length if self.multi else 1,
        )

    def apply(self, values: pa.Array) -> pa.Array:
        """Encode raw values.

        Args:
            values: [B] raw values of the column.

        Raises:
            DataError: the values are no categories.
        """
        if self.multi is None:
            return pa.array(self._ids(canonical(values, self.column)))
        cells = split_cells(values, self.column, self.multi.separator, self.multi.max_length)
        return cells.lists(self._ids(cells.values))

    def value_name(self, value_id: int) -> str:
        """Name the bucket of an id from 2 on; which values share it is not kept."""
        return f"bucket {value_id - FIRST_VALUE_ID}"

    def bucket_id(self, text: bytes) -> int:
        """Return the id of a value.

        Args:
            text: its canonical form in UTF-8.
        """
        return FIRST_VALUE_ID + xxhash.xxh64_intdigest(text, seed=_HASH_SEED) % self.buckets

    def _ids(self, values: pa.Array) -> Ids:
        distinct = values.dictionary_encode()
        texts = distinct.dictionary.cast(pa.string()).cast(pa.binary()).to_pylist()
        ids = [self.bucket_id(text) for text in texts]
        ids.append(NULL_ID)
        positions = pc.fill_null(distinct.indices, len(texts)).to_numpy(zero_copy_only=False)
        encoded: Ids = np.array(ids, np.int32)[positions]
        return encoded

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs, as JSON data."""
        return {
            "name": self.name,
            "column": self.column,
            "buckets": self.buckets,
            "multi": vars(self.multi) if self.multi else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Args:
            data: JSON data.
        """
        return cls(data["name"], data["column"], int(data["buckets"]), Multi.from_json(data["multi"]))
