"""The exposure log: one row for every time a variant answered a user, in the columns that analyses read."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

__all__ = ["EXPOSURE_COLUMNS", "ExposureColumn", "exposure_schema"]


@dataclass(frozen=True)
class ExposureColumn:
    """One column of the log.

    Args:
        name: of the column.
        type: as it is written; a reader also takes what can be brought to it.
        needed: whether an analysis cannot do without it.
        meaning: a sentence.
    """

    name: str
    type: pa.DataType
    needed: bool
    meaning: str


EXPOSURE_COLUMNS = (
    ExposureColumn("time", pa.timestamp("us", tz="UTC"), True, "when the answer was given"),
    ExposureColumn("user", pa.string(), True, "user id or its hash, the unit that was assigned"),
    ExposureColumn("experiment", pa.string(), False, "name of the experiment; one log may hold several"),
    ExposureColumn("variant", pa.string(), True, "name of the arm whose answer the user got"),
    ExposureColumn("request_id", pa.string(), False, "unique id of the answer; outcomes may refer to it"),
    ExposureColumn("model_version", pa.string(), False, "which bundle answered"),
    ExposureColumn("candidates", pa.list_(pa.string()), False, "ids of what was shown, best first"),
    ExposureColumn("scores", pa.list_(pa.float32()), False, "score of each candidate"),
    ExposureColumn("latency_ms", pa.float32(), False, "milliseconds the answer took"),
    ExposureColumn("error", pa.string(), False, "what went wrong, null where nothing did"),
)


def exposure_schema(*optional: str) -> pa.Schema:
    """Return the Arrow schema of a log, without the columns that only some logs have unless they are named.

    Args:
        optional: some of `candidates`, `scores`, `latency_ms`, `error`.

    Example:
        >>> exposure_schema("latency_ms").names
        ['time', 'user', 'experiment', 'variant', 'request_id', 'model_version', 'latency_ms']
    """
    always = {"time", "user", "experiment", "variant", "request_id", "model_version"}
    kept = [column for column in EXPOSURE_COLUMNS if column.name in always or column.name in optional]
    return pa.schema([pa.field(column.name, column.type, nullable=not column.needed) for column in kept])
