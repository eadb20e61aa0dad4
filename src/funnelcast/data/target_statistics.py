"""Target statistics: the smoothed mean of every step's label, and the row count, by a key of one or two columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from funnelcast.arrow import has_arrow, pa, pc
from funnelcast.data.cells import FIRST_VALUE_ID, numbers
from funnelcast.data.encode_categories import FEW_ROWS, Vocabulary
from funnelcast.data.encode_numbers import LogRound, Quantile
from funnelcast.schema import Field

__all__ = ["COUNT_SCALE", "KeyStatistics", "smoothed_means", "statistics_name", "train_statistics"]

COUNT_SCALE = 4.0  # buckets of the count field per unit of log1p(n)
Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


def statistics_name(columns: tuple[str, ...]) -> str:
    """Name the fields of one key in common.

    Args:
        columns: the key's raw columns.

    Example:
        >>> statistics_name(("user_id", "tab"))
        'stat(user_id,tab)'
    """
    return f"stat({','.join(columns)})"


def smoothed_means(hits: Whole, seen: Whole, rates: Floats, smoothing: float) -> Floats:
    """Pull means of few rows towards the overall rate.

    mean = (hits + smoothing * rate) / (seen + smoothing)

    Args:
        hits: [B, S] positive labels.
        seen: [B, S] known labels.
        rates: [S] overall rates.
        smoothing: weight of the overall rate, in rows.

    Example:
        >>> smoothed_means(np.array([[3]]), np.array([[5]]), np.array([0.1]), 10.0).round(6)
        array([[0.266667]])
    """
    means: Floats = (hits + smoothing * rates) / (seen + smoothing)
    return means


@dataclass(frozen=True, eq=False)
class KeyStatistics:
    """The statistics of one key, from all of TRAIN.

    Makes one field a step (`stat(a,b).click`: the mean in quantile buckets) and one of the count (`stat(a,b).count`:
    log-round of n, the nearest bucket below where TRAIN does not show the very one). A key that TRAIN does not show
    has n = 0 and so the overall rate. Null is a key like any other.

    Args:
        keys: one vocabulary a key column.
        codes: [K] sorted key codes: the id of the first column, times the second's size plus its id.
        rows: [K] rows of each key.
        hits: [K, S] positive labels of each key.
        seen: [K, S] known labels of each key.
        rates: [S] overall rate of each step.
        smoothing: weight of the overall rate, in rows.
        means: one quantile encoder a step.
        count_lows: sorted bucket numbers of n on TRAIN.
    """

    kind: ClassVar[str] = "target_statistics"
    keys: tuple[Vocabulary, ...]
    codes: Whole
    rows: Whole
    hits: Whole
    seen: Whole
    rates: Floats
    smoothing: float
    means: tuple[Quantile, ...] = ()
    count_lows: tuple[int, ...] = ()

    @classmethod
    def fit(cls, columns: tuple[str, ...], groups: pa.Table, n_steps: int, smoothing: float) -> Self:
        """Take the counts of each key on TRAIN; buckets are added by `with_buckets`.

        Args:
            columns: the key's raw columns.
            groups: one row a key: the columns `key0` (and `key1`), `rows`, `hits<i>` and `seen<i>` for each step.
            n_steps: number of steps, S.
            smoothing: weight of the overall rate, in rows.

        Raises:
            DataError: a key column holds no categories.
        """
        keys = tuple(
            Vocabulary.fit(column, column, pc.unique(groups[f"key{k}"].combine_chunks()))
            for k, column in enumerate(columns)
        )
        codes = _codes(keys, [groups[f"key{k}"].combine_chunks() for k in range(len(columns))])
        order = np.argsort(codes, kind="stable")

        def whole(name: str) -> Whole:
            return np.asarray(groups[name].to_numpy(), np.int64)[order]

        hits = np.stack([whole(f"hits{i}") for i in range(n_steps)], axis=1)  # [K, S]
        seen = np.stack([whole(f"seen{i}") for i in range(n_steps)], axis=1)  # [K, S]
        rates = hits.sum(axis=0) / seen.sum(axis=0)
        return cls(keys, codes[order], whole("rows"), hits, seen, rates, smoothing)

    def with_buckets(self, steps: list[str], lows: list[tuple[float, ...]], count_lows: tuple[int, ...]) -> Self:
        """Add the buckets that TRAIN's own statistics gave.

        Args:
            steps: names of the steps.
            lows: lowest values of each step's buckets.
            count_lows: sorted bucket numbers of n.
        """
        column = self.columns[0]
        means = tuple(Quantile(f"{self.name}.{step}", column, low) for step, low in zip(steps, lows, strict=True))
        return replace(self, means=means, count_lows=count_lows)

    @property
    def columns(self) -> tuple[str, ...]:
        """The key's raw columns."""
        return tuple(key.column for key in self.keys)

    @property
    def name(self) -> str:
        """The fields' common name, such as `stat(user_id,tab)`."""
        return statistics_name(self.columns)

    def fields(self) -> list[Field]:
        """Return one field a step, then the count."""
        return [mean.field for mean in self.means] + [
            Field(name=f"{self.name}.count", size=FIRST_VALUE_ID + len(self.count_lows), ordered=True)
        ]

    def count_name(self, value_id: int) -> str:
        """Write the counts of an id of the count field from 2 on, such as `4 to 7`."""
        # The bucket of n is round(log1p(n) * scale), so a bucket begins half a number below its own.
        lows = np.ceil(np.expm1((np.array(self.count_lows) - 0.5) / COUNT_SCALE)).astype(int).tolist()
        return Quantile("", "", tuple(map(float, lows))).value_name(value_id)

    def look_up(self, columns: list[pa.Array]) -> tuple[Whole, Floats]:
        """Find n and the smoothed means of rows, from all of TRAIN.

        Args:
            columns: the key columns, [B] each.

        Returns:
            n, [B], and the means, [B, S].

        Raises:
            DataError: a key column cannot be brought to the type that TRAIN had.
        """
        position = self._places(_codes(self.keys, columns))
        rows, means = self._by_key()
        return rows[position], means[position]

    def _by_key(self) -> tuple[Whole, Floats]:
        """N and the means of each key, and last of one that TRAIN has not shown."""
        empty = np.zeros((1, self.hits.shape[1]), np.int64)
        hits, seen = np.concatenate([self.hits, empty]), np.concatenate([self.seen, empty])
        return np.append(self.rows, 0), smoothed_means(hits, seen, self.rates, self.smoothing)

    def keep_order(self) -> None:
        """Keep the keys in order, so that few rows do not cost a hash table of all keys a call."""
        for key in self.keys:
            key.keep_dictionary()
        self._order, self._ids  # noqa: B018

    def ids_of(self, keys: list[list[int]]) -> npt.NDArray[np.int32]:
        """Encode rows of which the ids of the key columns are known, from all of TRAIN.

        Args:
            keys: [B] ids of each key column.

        Returns:
            [B, S + 1] the fields' ids.
        """
        codes = np.array(keys[0], np.int64)
        for key, ids in zip(self.keys[1:], keys[1:], strict=True):
            codes = codes * key.field.size + np.array(ids, np.int64)
        return self._ids[self._places(codes)]

    @cached_property
    def _ids(self) -> npt.NDArray[np.int32]:
        """[K + 1, S + 1] the fields' ids of each key, and last of one that TRAIN has not shown."""
        return np.stack(self._bucket(*self._by_key()), axis=1)

    @cached_property
    def _order(self) -> Whole:
        return np.argsort(self.codes)

    def _places(self, codes: Whole) -> Whole:
        """[B] place of each key in `codes`, or the number of keys for one that TRAIN has not shown."""
        known = self.codes
        if not len(known):
            return np.zeros(len(codes), np.int64)
        if "_order" not in vars(self) or (len(codes) > FEW_ROWS and has_arrow()):
            found = pc.fill_null(pc.index_in(pa.array(codes), value_set=pa.array(known)), len(known))
            return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
        places = self._order[np.minimum(np.searchsorted(known, codes, sorter=self._order), len(known) - 1)]
        return np.where(known[places] == codes, places, len(known))

    def bucket(self, rows: Whole, means: Floats) -> list[pa.Array]:
        """Encode n and means as ids, in the order of `fields`; an undefined mean (NaN) is null.

        Args:
            rows: [B] n.
            means: [B, S] smoothed means.
        """
        return [pa.array(ids) for ids in self._bucket(rows, means)]

    def _bucket(self, rows: Whole, means: Floats) -> list[npt.NDArray[np.int32]]:
        count = Quantile("", "", tuple(float(low) for low in self.count_lows))
        numbers_of_rows = LogRound.bucket_numbers(rows.astype(np.float64), COUNT_SCALE).astype(np.float64)
        encoded = [quantile.ids(means[:, i]) for i, quantile in enumerate(self.means)]
        return [*encoded, count.ids(numbers_of_rows)]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs, as JSON data."""
        return {
            "keys": [key.to_json() for key in self.keys],
            "codes": self.codes.tolist(),
            "rows": self.rows.tolist(),
            "hits": self.hits.tolist(),
            "seen": self.seen.tolist(),
            "rates": self.rates.tolist(),
            "smoothing": self.smoothing,
            "means": [mean.to_json() for mean in self.means],
            "count_lows": list(self.count_lows),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Args:
            data: JSON data.
        """
        n_steps = len(data["means"])
        return cls(
            tuple(Vocabulary.from_json(key) for key in data["keys"]),
            np.array(data["codes"], np.int64),
            np.array(data["rows"], np.int64),
            np.array(data["hits"], np.int64).reshape(-1, n_steps),
            np.array(data["seen"], np.int64).reshape(-1, n_steps),
            np.array(data["rates"], np.float64),
            float(data["smoothing"]),
            tuple(Quantile.from_json(mean) for mean in data["means"]),
            tuple(int(low) for low in data["count_lows"]),
        )


def _codes(keys: tuple[Vocabulary, ...], columns: list[pa.Array]) -> Whole:
    """[B] one number a key; a value that TRAIN has not shown has the id 1, which no key of TRAIN has."""
    codes = np.zeros(len(columns[0]), np.int64)
    for key, values in zip(keys, columns, strict=True):
        codes = codes * key.field.size + key.apply(values).to_numpy(zero_copy_only=False)
    return codes


def train_statistics(table: pa.Table, n_steps: int) -> tuple[Whole, Floats]:
    """Read n and means of TRAIN rows that the fit computed.

    Args:
        table: the columns `rows` and `mean<i>` for each step.
        n_steps: number of steps, S.
    """
    means = [numbers(table[f"mean{i}"].combine_chunks(), f"mean{i}") for i in range(n_steps)]
    return np.asarray(table["rows"].to_numpy(), np.int64), np.stack(means, axis=1)
