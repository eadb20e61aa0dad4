"""What an encoder looks like in the JSON file; a file that someone else wrote may hold anything."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, TypeAdapter, ValidationError
from pydantic import Field as Key

__all__ = ["Stored", "check_stored", "first_fault"]

_LARGEST_ID = 2**31 - 1
_Whole = Annotated[int, Key(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, Key(ge=1, le=_LARGEST_ID - 2)]  # ids 0 and 1 are taken
# One fault is told, so no list of millions is made of them.
_Wholes = Annotated[list[_Whole], FailFast()]
_Numbers = Annotated[list[float], FailFast()]
_Texts = Annotated[list[str], FailFast()]
_Rows = Annotated[list[_Wholes], FailFast()]
_TAGS = ("int64", "string")  # names of kinds of vocabularies, which are no keys


class Stored(BaseModel):
    """A record of which every value has the very type: no text for a number, no infinity, no NaN."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Multi(Stored):
    separator: str | None
    max_length: _Count


class _Column(Stored):
    name: str
    column: str


class _WholeVocabulary(_Column):
    type: Literal["int64"]
    values: _Wholes
    multi: _Multi | None


class _TextVocabulary(_Column):
    type: Literal["string"]
    values: _Texts
    multi: _Multi | None


class _Hash(_Column):
    buckets: _Count
    multi: _Multi | None


class _LogRound(_Column):
    scale: float = Key(gt=0)
    seen: _Wholes


class _Quantile(_Column):
    lows: _Numbers


_Vocabulary = Annotated[_WholeVocabulary | _TextVocabulary, Key(discriminator="type")]


class _KeyStatistics(Stored):
    keys: list[_Vocabulary]
    codes: _Wholes
    rows: _Wholes
    hits: _Rows
    seen: _Rows
    rates: _Numbers
    smoothing: float
    means: list[_Quantile]
    count_lows: _Wholes


_KINDS: dict[str, TypeAdapter[Any]] = {
    "vocabulary": TypeAdapter(_Vocabulary),
    "hash": TypeAdapter(_Hash),
    "log_round": TypeAdapter(_LogRound),
    "quantile": TypeAdapter(_Quantile),
    "target_statistics": TypeAdapter(_KeyStatistics),
}


def check_stored(kind: str, entry: object) -> None:
    """Refuse an encoder that `from_json` could not read, or whose ids could not be numbers of its field.

    Args:
        kind: of the encoder.
        entry: its JSON data.

    Raises:
        ValidationError: a key is missing, or its value is of another type or out of its range.
    """
    _KINDS[kind].validate_python(entry)


def first_fault(error: ValidationError, *outer: str | int) -> str:
    """Write what is wrong with a record, as the end of a message.

    Args:
        error: what pydantic found.
        outer: keys above the record.

    Example:
        >>> try:
        ...     check_stored("hash", {"name": "shelf", "column": "shelf", "buckets": float("inf"), "multi": None})
        ... except ValidationError as error:
        ...     first_fault(error, "encoders", 1)
        "key 'encoders.1.buckets': Input should be a valid integer, received inf"
    """
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in (*outer, *first["loc"]) if part not in _TAGS)
    reason = " ".join(first["msg"].split())  # it may repeat a value of several lines
    return f"key {key!r}: {reason}, received {reprlib.repr(first['input'])}"
