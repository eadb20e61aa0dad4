"""`POST /v1/score`: the JSON of a request -> its parts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from funnelcast.serving.http.refusal import RefusalError, quoted

__all__ = ["Body", "Request", "count_colons", "decode_json", "parse_body", "user_of"]

_LONG = 4096  # bytes
_KEY = re.compile(r"unknown field `(.*)`", re.DOTALL)
_ROW = re.compile(r"\$\.candidates\[(\d+)\]")
T = TypeVar("T")


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What a request says.

    Args:
        user: whom the candidates are for; decides the variant, and is no feature.
        context: columns that all candidates share.
        candidates: the other columns, one object a candidate.
        columns: the same as lists, one a column.
    """

    user: str | int | UnsetType | None = UNSET
    context: dict[str, Any] | UnsetType = UNSET
    candidates: list[dict[str, Any]] | UnsetType = UNSET
    columns: dict[str, Any] | UnsetType = UNSET


@dataclass(frozen=True)
class Request:
    """A body with what was left out put in.

    Args:
        user: whom the candidates are for, or None.
        context: columns that all candidates share.
        candidates: one object a candidate, or None where `columns` came.
        columns: one list a column, or None.
    """

    user: str | int | None
    context: Mapping[str, Any]
    candidates: Sequence[Mapping[str, Any]] | None
    columns: Mapping[str, Any] | None


class _User(msgspec.Struct):
    user: str | int | None = None


_DECODER, _USER_DECODER = msgspec.json.Decoder(Body), msgspec.json.Decoder(_User)


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode JSON.

    Args:
        decoder: for the type that is expected.
        body: UTF-8.

    Raises:
        RefusalError: it is no JSON, or of another type.
    """
    if not body.strip():
        raise RefusalError(400, "empty_body", "the body should be a JSON object, received nothing", column="body")
    try:
        return decoder.decode(body)
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.ValidationError as error:
        _refuse_large(body)
        unknown = _KEY.search(str(error))  # a client's text, which may look like a place
        found = None if unknown else _ROW.search(str(error))
        row = int(found[1]) if found else None
        reason = _KEY.sub(lambda key: f"unknown key {quoted(key[1])}", str(error))
        raise RefusalError(
            400, "wrong_shape", f"the body is not as it should be: {reason}", row=row, column="body"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
        raise RefusalError(
            400, "not_json", f"the body should be JSON in UTF-8, received what is not: {reason}", column="body"
        ) from error


def _refuse_large(body: bytes) -> None:
    """Name the place of a number beyond all doubles, which the decoder leaves out of its message."""
    try:
        read = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return  # the decoder stopped before that
    if not isinstance(read, dict):
        return
    context, columns, rows = (read.get(key) for key in ("context", "columns", "candidates"))
    places: list[tuple[int | None, Any]] = [(None, context), (None, columns)]
    places += enumerate(rows) if isinstance(rows, list) else []
    for row, part in places:
        for name, value in part.items() if isinstance(part, dict) else ():
            values = value if isinstance(value, list) else [value]
            place = next((k for k, one in enumerate(values) if isinstance(one, float) and math.isinf(one)), None)
            if place is not None:
                where = place if part is columns and isinstance(value, list) else row
                message = f"column {quoted(name)} should have numbers up to 1.8e308, received a larger one"
                raise RefusalError(400, "out_of_range", message, row=where, column=name)


def _no_number(text: str) -> None:
    raise ValueError(text)  # Infinity and NaN, which Python's JSON knows


def _too_deep() -> RefusalError:
    return RefusalError(400, "too_deep", "the body should be a flat JSON object, received deep nesting", column="body")


def parse_body(body: bytes) -> Request:
    """Decode a request and refuse keys that stand twice.

    Args:
        body: JSON.

    Raises:
        RefusalError: the body is no such JSON, or has both or none of `candidates` and `columns`.
    """
    parsed = decode_json(_DECODER, body)
    context = {} if parsed.context is UNSET else parsed.context
    candidates = None if parsed.candidates is UNSET else parsed.candidates
    columns = None if parsed.columns is UNSET else parsed.columns
    if (candidates is None) == (columns is None):
        received = "neither" if candidates is None else "both"
        raise RefusalError(
            400,
            "wrong_shape",
            f"the body should have either 'candidates' or 'columns', received {received}",
            column="candidates",
        )
    # Every key of an object stands before one colon: more colons than keys are in text, or a key stands twice.
    parts = (parsed.user, parsed.context, parsed.candidates, parsed.columns)
    keys = (
        sum(part is not UNSET for part in parts) + len(context) + len(columns or ()) + sum(map(len, candidates or ()))
    )
    if count_colons(body) != keys:
        _refuse_twice(body)
    return Request(None if parsed.user is UNSET else parsed.user, context, candidates, columns)


def count_colons(body: bytes) -> int:
    """Count colons; of a long body with NumPy, in a third of the time.

    Args:
        body: JSON.

    Example:
        >>> count_colons(b'{"user": "a:b"}')
        2
    """
    if len(body) < _LONG:
        return body.count(b":")
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(":")))


def user_of(body: bytes) -> str | int | None:
    """Read whom a request is for, and pass over the rest.

    Args:
        body: JSON.

    Returns:
        The user; None where there is none, or the body is no request.

    Example:
        >>> user_of(b'{"user": "ann", "candidates": [{}]}'), user_of(b'{"candidates": [{}]}'), user_of(b"{")
        ('ann', None, None)
    """
    try:
        user = _USER_DECODER.decode(body).user
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if user == "" else user


class _Twice(dict[str, Any]):
    """An object in which a key stands twice."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen: set[str] = set()
    twice = _Twice(made)
    twice.key = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return twice


def _refuse_twice(body: bytes) -> None:
    try:
        read = json.loads(body, object_pairs_hook=_object)
    except RecursionError as error:
        raise _too_deep() from error
    places = [(None, read), (None, read.get("context")), (None, read.get("columns"))]
    for row, part in [*places, *enumerate(read.get("candidates") or ())]:
        if isinstance(part, _Twice):
            where = "" if row is None else f" of row {row}"
            raise RefusalError(
                400,
                "duplicate_column",
                f"the key {quoted(part.key)}{where} should stand once, received it again",
                row=row,
                column=part.key,
            )
