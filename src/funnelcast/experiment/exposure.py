"""The exposure log: one row for every time a variant answered a user, in the columns that analyses read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funnelcast.arrow import pa

__all__ = ["EXPOSURE_COLUMNS", "ExposureColumn", "exposure_columns", "exposure_schema"]

_ARROW: dict[str, Callable[[], Any]] = {
    "time": lambda: pa.timestamp("us", tz="UTC"),
    "text": lambda: pa.string(),
    "number": lambda: pa.float32(),
    "texts": lambda: pa.list_(pa.string()),
    "numbers": lambda: pa.list_(pa.float32()),
}


@dataclass(frozen=True)
class ExposureColumn:
    """One column of the log.

    Args:
        name: of the column.
        kind: time, text, number, texts or numbers; as it is written, a reader also takes what can be brought to it.
        needed: whether an analysis cannot do without it.
        meaning: a sentence.
    """

    name: str
    kind: str
    needed: bool
    meaning: str


EXPOSURE_COLUMNS = (
    ExposureColumn("time", "time", True, "when the answer was given"),
    ExposureColumn("user", "text", True, "user id or its hash, the unit that was assigned"),
    ExposureColumn("experiment", "text", False, "name of the experiment; one log may hold several"),
    ExposureColumn("variant", "text", True, "name of the arm whose answer the user got"),
    ExposureColumn("request_id", "text", False, "unique id of the answer; outcomes may refer to it"),
    ExposureColumn("model_version", "text", False, "which bundle answered"),
    ExposureColumn("candidates", "texts", False, "ids of what was shown, best first"),
    ExposureColumn("scores", "numbers", False, "score of each candidate"),
    ExposureColumn("latency_ms", "number", False, "milliseconds the answer took"),
    ExposureColumn("error", "text", False, "what went wrong, null where nothing did"),
)


def exposure_columns(*optional: str) -> list[ExposureColumn]:
    """Return the columns of a log, without those that only some logs have unless they are named.

    Args:
        optional: some of `candidates`, `scores`, `latency_ms`, `error`.

    Example:
        >>> [column.name for column in exposure_columns("latency_ms")]
        ['time', 'user', 'experiment', 'variant', 'request_id', 'model_version', 'latency_ms']
    """
    always = {"time", "user", "experiment", "variant", "request_id", "model_version"}
    return [column for column in EXPOSURE_COLUMNS if column.name in always or column.name in optional]


def exposure_schema(*optional: str) -> pa.Schema:
    """Return the Arrow schema of a log.

    Args:
        optional: as for `exposure_columns`.
    """
    return pa.schema(
        [
            pa.field(column.name, _ARROW[column.kind](), nullable=not column.needed)
            for column in exposure_columns(*optional)
        ]
    )
