"""Files of encoders that someone else wrote: each value is of its type and in its range, or refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from funnelcast.data.encode import Encoders
from funnelcast.errors import ArtifactError

INFINITE = float("inf")
NAMES = {"name": "x", "column": "x"}
HASH = {"kind": "hash", **NAMES, "buckets": 16, "multi": None}
WORDS = {"kind": "vocabulary", **NAMES, "type": "string", "values": ["a"], "multi": None}
CODES = {**WORDS, "type": "int64", "values": [3, 4]}
LOG_ROUND = {"kind": "log_round", **NAMES, "scale": 4.0, "seen": [1, 2]}
QUANTILE = {"kind": "quantile", **NAMES, "lows": [1.0, 2.0]}
STATISTICS = {
    "kind": "target_statistics",
    "keys": [CODES],
    "codes": [2],
    "rows": [3],
    "hits": [[1]],
    "seen": [[3]],
    "rates": [0.3],
    "smoothing": 20.0,
    "means": [QUANTILE],
    "count_lows": [6],
}


def load(folder: Path, *entries: dict[str, Any]) -> Encoders:
    """Read encoders of JSON that Python alone writes, infinities among it."""
    path = folder / "encoders.json"
    path.write_text(json.dumps({"format": 1, "encoders": entries}))
    return Encoders.load(path)


@pytest.mark.parametrize(
    ("entry", "key", "received"),
    [
        ({**HASH, "buckets": INFINITE}, "buckets", "inf"),
        ({**HASH, "buckets": 0}, "buckets", "0"),  # a division by zero in the first row with a value
        ({**HASH, "buckets": 2**31}, "buckets", "2147483648"),
        ({**HASH, "buckets": True}, "buckets", "True"),
        ({**HASH, "name": ["shelf"]}, "name", "['shelf']"),
        ({**HASH, "column": None}, "column", "None"),
        ({**HASH, "multi": {"separator": None, "max_length": INFINITE}}, "multi.max_length", "inf"),
        ({**HASH, "multi": {"separator": None, "max_length": 0}}, "multi.max_length", "0"),
        ({**WORDS, "values": ["a", None]}, "values.1", "None"),
        ({**WORDS, "type": "a\nb"}, "", "{"),
        ({**CODES, "values": [3, 2**63]}, "values.1", "9223372036854775808"),
        ({**CODES, "values": [True]}, "values.0", "True"),
        ({**LOG_ROUND, "scale": INFINITE}, "scale", "inf"),
        ({**LOG_ROUND, "scale": 0.0}, "scale", "0.0"),
        ({**LOG_ROUND, "seen": [1, INFINITE]}, "seen.1", "inf"),
        ({**LOG_ROUND, "seen": [-(2**64)]}, "seen.0", "-18446744073709551616"),
        ({**QUANTILE, "lows": [1.0, float("nan")]}, "lows.1", "nan"),
        ({**QUANTILE, "lows": [10**400]}, "lows.0", "1000"),
        ({**STATISTICS, "codes": [2**64]}, "codes.0", "18446744073709551616"),
        ({**STATISTICS, "rows": [INFINITE]}, "rows.0", "inf"),
        ({**STATISTICS, "hits": [[INFINITE]]}, "hits.0.0", "inf"),
        ({**STATISTICS, "seen": [[2**64]]}, "seen.0.0", "18446744073709551616"),
        ({**STATISTICS, "rates": [INFINITE]}, "rates.0", "inf"),
        ({**STATISTICS, "smoothing": 10**400}, "smoothing", "1000"),
        ({**STATISTICS, "count_lows": [INFINITE]}, "count_lows.0", "inf"),
        ({**STATISTICS, "keys": [{**CODES, "values": [2**64]}]}, "keys.0.values.0", "18446744073709551616"),
        ({**STATISTICS, "means": [{**QUANTILE, "lows": [INFINITE]}]}, "means.0.lows.0", "inf"),
    ],
)
def test_hostile_values_are_refused(tmp_path: Path, entry: dict[str, Any], key: str, received: str) -> None:
    place = re.escape(f"encoders.1.{key}".rstrip("."))
    message = f"should be an encoders file, but key '{place}': .*, received {re.escape(received)}"
    with pytest.raises(ArtifactError, match=message) as caught:
        load(tmp_path, WORDS, entry)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_else_they_are_encoders(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [HASH, WORDS, CODES, LOG_ROUND, QUANTILE, STATISTICS]
    sizes = [field.size for field in load(tmp_path, *entries).fields()]
    assert sizes == [18, 3, 4, 4, 4, 4, 3]


@pytest.mark.parametrize("values", [[], [-(2**63), 2**63 - 1]])
def test_all_whole_numbers_of_64_bits_are_values(tmp_path: Path, values: list[int]) -> None:
    (encoder,) = load(tmp_path, {**CODES, "values": values}).columns
    assert encoder.field.size == 2 + len(values)
