"""All encoders of a dataset: raw rows -> `field.*` columns, and their JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from funnelcast.arrow import arrow_errors, pa
from funnelcast.data.encode_categories import HashBuckets, Multi, Vocabulary
from funnelcast.data.encode_few import FewRows
from funnelcast.data.encode_numbers import LogRound, Quantile
from funnelcast.data.encode_stored import check_stored, first_fault
from funnelcast.data.target_statistics import Floats, KeyStatistics, Whole
from funnelcast.errors import ArtifactError, ConfigError, DataError, choices
from funnelcast.files import read_json
from funnelcast.schema import NULL_ID, UNKNOWN_ID, Field, field_column

__all__ = [
    "ColumnEncoder",
    "Encoders",
    "HashBuckets",
    "KeyStatistics",
    "LogRound",
    "Multi",
    "Quantile",
    "TrainRows",
    "Vocabulary",
]

_FORMAT = 1
_NO_VALUE = {NULL_ID: "(missing)", UNKNOWN_ID: "(unknown)"}
_KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    cls.kind: cls.from_json for cls in (Vocabulary, HashBuckets, LogRound, Quantile, KeyStatistics)
}


class ColumnEncoder(Protocol):
    """What all encoders of one column share."""

    kind: ClassVar[str]

    @property
    def column(self) -> str:
        """The raw column."""

    @property
    def field(self) -> Field:
        """The field it makes."""

    def apply(self, values: pa.Array) -> pa.Array:
        """Encode raw values as int32 ids, or lists of them."""

    def value_name(self, value_id: int) -> str:
        """Name what an id from 2 on stands for."""

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs, as JSON data."""


@dataclass(frozen=True)
class TrainRows:
    """Which rows belong to TRAIN, and their statistics that leave out what a row must not see.

    Args:
        mask: [B] bool.
        statistics: for each target statistic n, [TRAIN rows], and the means, [TRAIN rows, S].
    """

    mask: npt.NDArray[np.bool_]
    statistics: list[tuple[Whole, Floats]]


class Encoders:
    """The encoders of a prepared dataset, fitted on TRAIN.

    Args:
        columns: one encoder a feature, in the description's order.
        statistics: target statistics, in the description's order.

    Attributes:
        few: encodes few rows without Arrow; None unless `keep_dictionaries` was called and the encoders allow it.

    Example:
        >>> encoders = Encoders([Vocabulary("tab", "tab", pa.array(["home"]))], [])
        >>> encoders.encode(pa.table({"x": [1, 2], "tab": ["home", "news"]}))["field.tab"].to_pylist()
        [2, 1]
    """

    def __init__(self, columns: Iterable[ColumnEncoder], statistics: Iterable[KeyStatistics] = ()) -> None:
        self.columns = tuple(columns)
        self.statistics = tuple(statistics)
        self.few: FewRows | None = None

    @property
    def hash_anew(self) -> bool:
        """Whether a call of `encode` first builds hash tables of what TRAIN held, so that many rows a call pay."""
        return bool(self.statistics) or any(
            isinstance(encoder, Vocabulary) and not encoder.has_table for encoder in self.columns
        )

    def keep_dictionaries(self) -> None:
        """Make ready for few rows a call: keep a dictionary a vocabulary, and a table a statistic."""
        for encoder in self.columns:
            if isinstance(encoder, Vocabulary):
                encoder.keep_dictionary()
        for statistic in self.statistics:
            statistic.keep_order()
        few = FewRows(self.columns, self.statistics)
        self.few = few if few.usable else None

    def few_rows(self) -> FewRows:
        """Return what encodes lists of values.

        Raises:
            ConfigError: a column is read as text and as a number, which takes PyArrow.
        """
        if self.few is None:
            self.keep_dictionaries()
        if self.few is None:
            raise ConfigError(
                "an encoder reads as a number what another one reads as text, which needs PyArrow; "
                "it is not installed; install it by: pip install pyarrow"
            )
        return self.few

    def fields(self) -> list[Field]:
        """Return the fields: features in the description's order, then target statistics."""
        return [encoder.field for encoder in self.columns] + [
            field for statistic in self.statistics for field in statistic.fields()
        ]

    def value_names(self, field: str) -> Callable[[int], str]:
        """Return what names a field's ids: a value, `bucket 7` of a hash, or the range of numbers of a bucket.

        Args:
            field: name of one of the fields.

        Raises:
            ConfigError: there is no such field.

        Example:
            >>> name_of = Encoders([Vocabulary("tab", "tab", pa.array(["home"]))]).value_names("tab")
            >>> [name_of(value_id) for value_id in (0, 1, 2)]
            ['(missing)', '(unknown)', 'home']
        """
        names: dict[str, Callable[[int], str]] = {e.field.name: e.value_name for e in self.columns}
        for statistic in self.statistics:
            names |= {mean.name: mean.value_name for mean in statistic.means}
            names[f"{statistic.name}.count"] = statistic.count_name
        if field not in names:
            raise ConfigError(f"'{field}' should be a field of the data; {choices(names, field)}")
        return lambda value_id: _NO_VALUE.get(value_id) or names[field](value_id)

    def raw_columns(self) -> list[str]:
        """Return the raw columns that `encode` reads, each once."""
        columns = [encoder.column for encoder in self.columns]
        return list(dict.fromkeys(columns + [column for key in self.statistics for column in key.columns]))

    def encode(self, table: pa.Table, *, train: TrainRows | None = None, pool: Executor | None = None) -> pa.Table:
        """Encode raw rows.

        Args:
            table: raw rows; further columns and any order are fine.
            train: the rows of TRAIN with their own statistics (preparation only); all other rows, and all rows at
                prediction, take the statistics of the whole of TRAIN.
            pool: threads to encode several columns at once.

        Returns:
            One `field.*` column a field, int32 or list<int32>.

        Raises:
            DataError: a column is missing or cannot be brought to the type that TRAIN had.
        """
        arrays = {name: self._array(table, name) for name in self.raw_columns()}
        run: Callable[..., Iterable[Any]] = pool.map if pool else map
        encoded = list(run(lambda encoder: encoder.apply(arrays[encoder.column]), self.columns))
        for k, statistic in enumerate(self.statistics):
            rows, means = statistic.look_up([arrays[column] for column in statistic.columns])
            if train is not None:
                rows[train.mask], means[train.mask] = train.statistics[k]
            encoded += statistic.bucket(rows, means)
        return pa.table(dict(zip((field_column(field.name) for field in self.fields()), encoded, strict=True)))

    def _array(self, table: pa.Table, name: str) -> pa.Array:
        if name not in table.column_names:
            raise DataError(f"rows should have the column '{name}'; {choices(table.column_names, name)}")
        if table.column_names.count(name) > 1:
            raise DataError(f"rows should have one column '{name}', received {table.column_names.count(name)}")
        column = table.column(name)
        # One array instead of many chunks: the hash table of a vocabulary is then built once.
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def save(self, path: Path) -> None:
        """Write all encoders as JSON, one a line.

        Args:
            path: the file to write.
        """
        with path.open("w", encoding="utf-8") as file:
            file.write(f'{{"format": {_FORMAT}, "encoders": [')
            encoders: list[ColumnEncoder | KeyStatistics] = [*self.columns, *self.statistics]
            for number, encoder in enumerate(encoders):
                file.write(",\n" if number else "\n")
                data = {"kind": encoder.kind, **encoder.to_json()}
                file.write(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
            file.write("\n]}\n")

    @classmethod
    def load(cls, path: Path) -> Encoders:
        """Read encoders that `save` wrote.

        Args:
            path: the JSON file.

        Raises:
            ArtifactError: the file is missing, damaged, or of an unknown format or kind.
        """
        data = read_json(path, "an encoders file", "encoders", version=_FORMAT)
        try:
            encoders = [cls._read(path, place, entry) for place, entry in enumerate(data["encoders"])]
        except arrow_errors(ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path}: should be an encoders file, received: {type(error).__name__}: {error}"
            ) from error
        columns = [encoder for encoder in encoders if not isinstance(encoder, KeyStatistics)]
        return cls(columns, [encoder for encoder in encoders if isinstance(encoder, KeyStatistics)])

    @staticmethod
    def _read(path: Path, place: int, entry: dict[str, Any]) -> Any:
        kind = entry["kind"]
        if kind not in _KINDS:
            raise ArtifactError(f"{path}: unknown encoder kind {kind!r}; {choices(_KINDS, str(kind))}")
        try:
            check_stored(kind, entry)
        except ValidationError as error:
            fault = first_fault(error, "encoders", place)
            raise ArtifactError(f"{path}: should be an encoders file, but {fault}") from error
        return _KINDS[kind](entry)
