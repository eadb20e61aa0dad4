"""Golden rows made from a run's encoders alone: nulls, unknown, extreme and usual values of every column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from funnelcast.data.encode import Encoders, HashBuckets, LogRound, Multi, Quantile, Vocabulary
from funnelcast.data.ids import Ids, ids_matrix
from funnelcast.schema import NULL_ID, UNKNOWN_ID, Schema
from funnelcast.serving.golden import Golden, raw_table
from funnelcast.serving.scorer import Scored

__all__ = ["golden_rows"]

USUAL_ROWS, DRAWN_ROWS = 12, 12
_LARGEST = 2**63 - 1
# Text that no log has, and that an encoder of numbers can read, too.
_UNKNOWN_TEXT, _LONG_TEXT = "-987654321", "9" * 300


class _Values(NamedTuple):
    """Raw values of one column."""

    kind: pa.DataType
    unknown: Any
    high: Any
    low: Any
    usual: Sequence[Any]


def golden_rows(encoders: Encoders, schema: Schema, score: Callable[[Ids], Scored]) -> Golden:
    """Make rows and score them.

    The first row is null everywhere, the second unknown, the third and the fourth hold the largest and the smallest
    values, the following ones usual values; behind them stand rows of ids alone: all smallest, all largest, and drawn.

    Args:
        encoders: of the run.
        schema: of the run.
        score: maps ids [N, W] to scores.
    """
    columns = {name: _values_of(encoders, name) for name in encoders.raw_columns()}
    rows = [dict.fromkeys(columns)]
    rows += [{name: values[k] for name, values in columns.items()} for k in (1, 2, 3)]
    for row in range(USUAL_ROWS):
        # Every value of a column comes in its turn, each time beside others of the columns next to it.
        picks = {
            name: (row + place * (1 + row // len(values.usual))) % len(values.usual)
            for place, (name, values) in enumerate(columns.items())
        }
        rows.append({name: columns[name].usual[pick] for name, pick in picks.items()})
    types = {name: str(values.kind) for name, values in columns.items()}
    ids = np.concatenate([ids_matrix(encoders.encode(raw_table(rows, types)), schema), _drawn_ids(schema)])
    return Golden(rows, types, ids, score(ids))


def _drawn_ids(schema: Schema) -> Ids:
    """Rows with all smallest and all largest ids, then drawn ones, from null on."""
    draw = np.random.default_rng(0)
    parts = []
    for field in schema.fields:
        drawn = draw.integers(NULL_ID, field.size, (DRAWN_ROWS, field.max_length))
        lengths = draw.integers(1, field.max_length + 1, DRAWN_ROWS)
        drawn[np.arange(field.max_length) >= lengths[:, None]] = NULL_ID
        smallest = np.full((1, field.max_length), min(UNKNOWN_ID + 1, field.size - 1))
        parts.append(np.concatenate([smallest, np.full_like(smallest, field.size - 1), drawn]))
    return np.concatenate(parts, axis=1).astype(np.int32)


def _values_of(encoders: Encoders, column: str) -> _Values:
    """Choose values of a column that all encoders of it can read."""
    readers = [encoder for encoder in encoders.columns if encoder.column == column]
    keys = [key for statistic in encoders.statistics for key in statistic.keys if key.column == column]
    multi = next((r.multi for r in readers if isinstance(r, Vocabulary | HashBuckets) and r.multi), None)
    vocabularies = [r for r in (*readers, *keys) if isinstance(r, Vocabulary) and len(r.values)]
    if vocabularies:
        values = _words(vocabularies[0])
    elif numeric := [r for r in readers if isinstance(r, LogRound | Quantile)]:
        values = _numbers(numeric[0])
    else:
        values = _Values(pa.string(), _UNKNOWN_TEXT, _LONG_TEXT, "0", ["1", "2", "3"])
    return values if multi is None else _several(values, multi)


def _words(vocabulary: Vocabulary) -> _Values:
    known = vocabulary.values
    usual = [known[place].as_py() for place in sorted({0, len(known) // 2, len(known) - 1})]
    if vocabulary.value_type == "int64":
        values = set(known.to_pylist())
        unknown = next(number for number in range(len(values) + 1) if number not in values)
        return _Values(pa.int64(), unknown, _LARGEST, -_LARGEST, usual)
    return _Values(pa.string(), _UNKNOWN_TEXT, _LONG_TEXT, min(known.to_pylist()), usual)


def _numbers(encoder: LogRound | Quantile) -> _Values:
    if isinstance(encoder, Quantile):
        usual = list(encoder.lows)
    else:
        buckets = np.array(encoder.seen, np.float64)
        usual = (np.sign(buckets) * np.expm1(np.abs(buckets) / encoder.scale)).tolist()
    usual = usual[:: max(1, len(usual) // USUAL_ROWS)] or [0.0]
    return _Values(pa.float64(), 0.123456789, 1e300, -1e300, usual)


def _several(values: _Values, multi: Multi) -> _Values:
    """Make cells of several values: an empty one, one longer than is kept, and what lies between."""
    one = list(values.usual)
    many = (one * (multi.max_length + 1))[: multi.max_length + 1]
    cells = [[values.unknown], many, [], *([value] for value in one), [*one, values.unknown]]
    if multi.separator is None:
        made: list[Any] = cells
        kind = pa.list_(values.kind)
    else:
        made, kind = [multi.separator.join(map(str, cell)) for cell in cells], pa.string()
    unknown, high, low, *usual = made
    return _Values(kind, unknown, high, low, usual)
