"""Golden rows: raw rows with the ids and the scores that they must have, whoever scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from funnelcast.arrow import arrow_errors, has_arrow, pa
from funnelcast.data.encode import Encoders
from funnelcast.data.ids import Ids, ids_matrix
from funnelcast.errors import ArtifactError, DataError
from funnelcast.files import read_json, write_json
from funnelcast.schema import Schema
from funnelcast.serving.scorer import Scored

__all__ = ["TOLERANCE", "Golden", "raw_table"]

FORMAT = 1
TOLERANCE = 1e-5  # of a probability, and of a value beside the largest
_LIST = "list<item: {}>"
_PLAIN = ("int64", "double", "string", "null")
_TYPES = {*_PLAIN, *map(_LIST.format, _PLAIN)}
_KEYS = ("types", "rows", "ids", "reach", "transition", "value")


@dataclass(frozen=True)
class Golden:
    """Rows and what PyTorch says of them.

    Args:
        rows: raw values of the first rows: nulls, unknown and extreme ones, then usual ones.
        types: name of each raw column -> its Arrow type, such as `int64` or `list<item: string>`.
        ids: [N, W] ids of all rows; those behind the raw ones are given as ids alone.
        scored: scores of all rows.
    """

    rows: Sequence[Mapping[str, Any]]
    types: Mapping[str, str]
    ids: Ids
    scored: Scored

    @cached_property
    def raw(self) -> pa.Table:
        """The raw rows as a table."""
        return raw_table(self.rows, self.types)

    def write(self, path: Path) -> None:
        """Write the rows as JSON."""
        scores = {name: None if part is None else part.tolist() for name, part in self.scored._asdict().items()}
        raw = {"types": dict(self.types), "rows": list(self.rows)}
        write_json(path, {"format": FORMAT, **raw, "ids": self.ids.tolist(), **scores})

    @classmethod
    def read(cls, path: Path, schema: Schema) -> Golden:
        """Read what `write` wrote.

        Args:
            path: the file.
            schema: the fields and the funnel.

        Raises:
            ArtifactError: the file is damaged, or its shapes are not those of the schema.
        """
        record = read_json(path, "golden rows", *_KEYS, version=FORMAT)
        try:
            rows, types = list(map(dict, record["rows"])), dict(record["types"])
            if unknown := [text for text in types.values() if text not in _TYPES]:
                raise ValueError(f"the type {unknown[0]!r}")
            if has_arrow():
                raw_table(rows, types)
            ids = np.array(record["ids"], np.int32, ndmin=1)
            reach, transition = (np.array(record[name], np.float32) for name in ("reach", "transition"))
            value = None if record["value"] is None else np.array(record["value"], np.float32)
        except arrow_errors(AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(f"{path}: should be golden rows, received: {error!r}") from error
        wanted: dict[str, tuple[int, ...]] = {
            "ids": (schema.width,),
            "reach": (schema.n_steps,),
            "transition": (schema.n_steps,),
        }
        found = {"ids": ids, "reach": reach, "transition": transition} | ({} if value is None else {"value": value})
        wanted |= {} if schema.value_step is None else {"value": ()}
        if found.keys() != wanted.keys():
            raise ArtifactError(f"{path}: should hold {', '.join(wanted)}, received {', '.join(found)}")
        for name, part in found.items():
            if part.shape != (len(ids), *wanted[name]) or not len(ids):
                expected = [len(ids) or "rows", *wanted[name]]
                raise ArtifactError(f"{path}: '{name}' should be {expected}, received {list(part.shape)}")
        return cls(rows, types, ids, Scored(reach, transition, value))

    def check(self, path: Path, encoders: Encoders, schema: Schema, score: Callable[[Ids], Scored]) -> float:
        """Encode and score the rows again.

        Args:
            path: for messages.
            encoders: of the bundle.
            schema: the fields and the funnel.
            score: maps ids [N, W] to scores.

        Returns:
            The largest difference of a score.

        Raises:
            ArtifactError: a row has other ids or scores.
        """
        if self.rows:
            ids = self._encode(path, encoders, schema)
            expected = self.ids[: len(ids)]
            if not np.array_equal(ids, expected):
                row = int(np.argwhere((ids != expected).any(axis=1))[0][0])
                raise ArtifactError(
                    f"{path}: row {row} should have the ids {expected[row].tolist()}, received {ids[row].tolist()}"
                )
        found, largest = score(self.ids), 0.0
        for name, expected_part, part in zip(Scored._fields, self.scored, found, strict=True):
            if expected_part is None or part is None:
                continue
            scale = max(1.0, float(np.abs(expected_part).max())) if name == "value" else 1.0
            # NaN in the file is no reason to believe a score.
            difference = np.nan_to_num(np.abs(part.astype(np.float64) - expected_part) / scale, nan=np.inf)
            largest = max(largest, float(difference.max()))
            if largest > TOLERANCE:
                row = int(np.argwhere(difference > TOLERANCE)[0][0])
                raise ArtifactError(
                    f"{path}: row {row} should have the {name} {expected_part[row].tolist()} within {TOLERANCE:g}, "
                    f"received {part[row].tolist()}"
                )
        return largest

    def _encode(self, path: Path, encoders: Encoders, schema: Schema) -> Ids:
        try:
            if has_arrow():
                return ids_matrix(encoders.encode(self.raw), schema)
            cells = {name: [row[name] for row in self.rows] for name in encoders.raw_columns()}
            return encoders.few_rows().ids(cells)
        except (DataError, AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: should hold raw rows of the encoders, received: {error}") from error


def raw_table(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> pa.Table:
    """Make a table of raw rows.

    Args:
        rows: raw values by column.
        types: name of each raw column -> its Arrow type.
    """
    kinds = {"int64": pa.int64(), "double": pa.float64(), "string": pa.string(), "null": pa.null()}
    known = kinds | {_LIST.format(name): pa.list_(kind) for name, kind in kinds.items()}
    return pa.Table.from_pylist(list(rows), schema=pa.schema([(name, known[text]) for name, text in types.items()]))
