"""A simulated funnel whose true probabilities are known."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.data.description import Description, Feature, Source, StepColumn, TimeSplit
from funnelcast.datasets._world import Floats, Inputs, World, WorldOptions
from funnelcast.errors import ConfigError
from funnelcast.files import temporary_beside
from funnelcast.registry import DATASETS

__all__ = ["PERIOD", "Synthetic"]

START = datetime.datetime(2024, 1, 1)
PERIOD = datetime.timedelta(days=30)
CHUNK_ROWS = 65_536
VALID_FROM, TEST_FROM = 0.8, 0.9
MICROSECOND = datetime.timedelta(microseconds=1)


@DATASETS.register
class Synthetic:
    """Simulated funnel with known truth: the embedded default dataset.

    c_k(x, t, u) = sigmoid(b_k + g_k(x) + drift * (t - 1/2) * h_k(x) + confounder * u),   u ~ N(0, 1) hidden

    A potential outcome of every step is drawn for every row and kept in `potential_<step>`; the observed label is
    their running product. Given the fields, `true_reach_<step>` is E_u[c_1 ... c_k], `true_transition_<step>` its ratio
    to the former step's, and `potential_rate_<step>` is E_u[c_k], what debiasing aims at. u stands in the column
    `confounder`. None of these columns is a feature. Rows are ordered in time and split 80/10/10.

    Args:
        rows: number of rows, >= 10.
        steps: names of the steps in funnel order.
        rates: mean transition of each step, in (0, 1); Ali-CCP's are (0.039, 0.0055).
        fields: number of categorical fields, >= 1; a quarter of them describes the user.
        ids: numbers of ids of the fields, each >= 2, repeated over the fields; drawn by Zipf's law.
        numeric: number of numeric fields, >= 0.
        multi: number of multi-valued fields, >= 0.
        signal: standard deviation of each step's logit given the fields, > 0.
        agreement: correlation of the logits of neighbouring steps, in [-1, 1]; agreement^|i-j| between steps i and j.
        confounder: strength of the hidden confounder on every logit, >= 0.
        drift: how far the effects of every second field move over the whole period, in logits, >= 0.
        seed: draws both the law and the rows, >= 0.

    Raises:
        ConfigError: an option is out of its range.

    Source: the simulator design of a funnel with potential outcomes, as used to test entire-space estimators
        (ESCM2, SIGIR 2022, section 2).

    Example:
        >>> Synthetic(rows=1000, steps=("click", "purchase"), rates=(0.039, 0.0055)).rates
        (0.039, 0.0055)
    """

    terms: ClassVar[str] = "Made on this machine; no licence, no credit."
    where: ClassVar[str] = "Nothing to fetch: the rows are simulated."

    def __init__(
        self,
        *,
        rows: int = 200_000,
        steps: tuple[str, ...] = ("click", "authorize", "convert"),
        rates: tuple[float, ...] = (0.2, 0.3, 0.4),
        fields: int = 20,
        ids: tuple[int, ...] = (8, 40, 200, 16, 12_000, 5, 80, 24, 500, 12, 30, 6, 1_000, 20, 10, 60, 4, 100, 15, 50),
        numeric: int = 2,
        multi: int = 1,
        signal: float = 1.05,
        agreement: float = 0.5,
        confounder: float = 0.0,
        drift: float = 0.0,
        seed: int = 0,
    ) -> None:
        _check("rows", rows, rows >= 10, "at least 10")
        _check("fields", fields, fields >= 1, "at least 1")
        _check("ids", ids, bool(ids) and all(size >= 2 for size in ids), "one or more numbers, each at least 2")
        _check("rates", rates, len(rates) == len(steps) > 0, f"one number a step, here {len(steps)}")
        _check("rates", rates, all(0 < rate < 1 for rate in rates), "transition rates in (0, 1)")
        _check("numeric", numeric, numeric >= 0, "at least 0")
        _check("multi", multi, multi >= 0, "at least 0")
        _check("signal", signal, signal > 0, "above 0")
        _check("agreement", agreement, -1 <= agreement <= 1, "in [-1, 1]")
        _check("confounder", confounder, confounder >= 0, "at least 0")
        _check("drift", drift, drift >= 0, "at least 0")
        _check("seed", seed, 0 <= seed < 2**32, "in [0, 2^32)")
        self.rows, self.steps, self.rates = rows, steps, rates
        self.features = _features(fields, numeric, multi)
        columns = ["time", "user_id", "confounder", *(feature.name for feature in self.features), *steps]
        _check("steps", steps, len(set(columns)) == len(columns), "unique names that no other column has")
        self._options = WorldOptions(
            seed=seed,
            rates=rates,
            ids=tuple(ids[field % len(ids)] for field in range(fields)),
            numeric=numeric,
            multi=multi,
            users=max(rows // 10, 1),
            signal=signal,
            agreement=agreement,
            confounder=confounder,
            drift=drift,
        )

    def describe(self, source: Path | None, work: Path) -> Description:
        """Simulate the rows into `work` and describe them.

        Args:
            source: not used; should be None.
            work: folder for `synthetic.parquet`; the same options give the same bytes.

        Raises:
            ConfigError: a source was given, or the fields carry too little variety for the number of steps.
        """
        if source is not None:
            raise ConfigError(f"dataset 'synthetic' should have no source, since it makes its own; received {source}")
        path = work / "synthetic.parquet"
        self._write(path)
        return Description(
            name="synthetic",
            source=Source(files=(str(path),), format="parquet"),
            features=self.features,
            steps=tuple(
                StepColumn(
                    name=s,
                    true_reach=f"true_reach_{s}",
                    true_transition=f"true_transition_{s}",
                    true_potential=f"potential_rate_{s}",
                )
                for s in self.steps
            ),
            split=TimeSplit(
                kind="time", column="time", valid_from=self._moment(VALID_FROM), test_from=self._moment(TEST_FROM)
            ),
            user="user_id",
            time="time",
            options=self.options(),
        )

    def options(self) -> dict[str, Any]:
        """Return all options, from which this very dataset can be made again; equal worlds have equal ones."""
        options = asdict(self._options)
        del options["users"]
        return {"rows": self.rows, "steps": self.steps, "fields": len(self._options.ids), **options}

    def world(self) -> World:
        """Build the law behind the rows."""
        return World(self._options)

    def _moment(self, share: float) -> datetime.datetime:
        """Time of the row with which a part begins."""
        return START + int(self._microseconds(np.array([round(share * self.rows)]))[0]) * MICROSECOND

    def _microseconds(self, row: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Floats:
        """Microseconds from the start to each row; rows are spread evenly over the period."""
        return np.asarray(np.floor(row * ((PERIOD // MICROSECOND) / self.rows)))

    def _write(self, path: Path) -> None:
        """Write chunk after chunk, so that memory does not grow with the number of rows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        writer: pq.ParquetWriter | None = None
        try:
            for table in self._tables():
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        temporary.replace(path)

    def _tables(self) -> Iterator[pa.Table]:
        world = self.world()
        for number, first in enumerate(range(0, self.rows, CHUNK_ROWS)):
            row = np.arange(first, min(first + CHUNK_ROWS, self.rows))
            inputs = world.chunk(number, row / self.rows)
            logits = world.logits(inputs)  # [N, S]
            potential = world.outcomes(number, inputs, logits)  # [N, S]
            observed, truth = np.cumprod(potential, axis=1), world.truth(logits)
            columns = {
                "time": pa.array(self._microseconds(row).astype(np.int64) + _epoch(START), pa.timestamp("us")),
                "user_id": pa.array(inputs.user),
                **self.feature_columns(inputs),
            }
            for k, step in enumerate(self.steps):
                columns[step] = pa.array(observed[:, k].astype(np.int8))
            for k, step in enumerate(self.steps):
                columns[f"potential_{step}"] = pa.array(potential[:, k].astype(np.int8))
                columns[f"true_reach_{step}"] = pa.array(truth.reach[:, k].astype(np.float32))
                columns[f"true_transition_{step}"] = pa.array(truth.transition[:, k].astype(np.float32))
                columns[f"potential_rate_{step}"] = pa.array(truth.potential[:, k].astype(np.float32))
            columns["confounder"] = pa.array(inputs.confounder.astype(np.float32))
            yield pa.table(columns)

    def feature_columns(self, inputs: Inputs) -> dict[str, pa.Array]:
        """Write features as a log would have them: ids, skewed or plain numbers, lists of tags.

        Args:
            inputs: N rows of this dataset's world.
        """
        arrays = [pa.array(ids.astype(np.int32)) for ids in inputs.ids]
        for index, number in enumerate(inputs.numbers):
            arrays.append(pa.array(np.expm1(np.abs(number)) * np.sign(number) if index % 2 == 0 else number))
        for values, offsets in inputs.tags:
            arrays.append(pa.ListArray.from_arrays(offsets.astype(np.int32), values.astype(np.int32)))
        return {feature.name: array for feature, array in zip(self.features, arrays, strict=True)}


def _features(fields: int, numeric: int, multi: int) -> tuple[Feature, ...]:
    """Describe the columns that a model may use."""
    return (
        *(Feature(name=f"field_{index:02d}") for index in range(fields)),
        *(
            Feature(name=f"number_{index}", kind="numeric", encoder="log_round", scale=8.0)
            if index % 2 == 0
            else Feature(name=f"number_{index}", kind="numeric", encoder="quantile", buckets=32)
            for index in range(numeric)
        ),
        *(Feature(name=f"tags_{index}", kind="multi", max_length=5) for index in range(multi)),
    )


def _epoch(moment: datetime.datetime) -> int:
    return (moment - datetime.datetime(1970, 1, 1)) // MICROSECOND


def _check(option: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"dataset 'synthetic': option '{option}' should be {rule}, received {value!r}")
