"""`POST /v1/score`: the body of a request -> one table of raw columns."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
from msgspec import UNSET, UnsetType

from funnelcast.serving.http.columns import RawColumn
from funnelcast.serving.http.refusal import RefusalError, excerpt

__all__ = ["FEW_ROWS", "Body", "RawRows", "Request", "count_rows", "decode_json", "parse_body", "raw_rows"]

_KEY = re.compile(r"unknown field `(.*)`", re.DOTALL)
_ROW = re.compile(r"\$\.candidates\[(\d+)\]")
FEW_ROWS = 128  # up to which lists of values are encoded faster than Arrow's arrays
_NAMED = 8  # columns listed in one answer
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


@dataclass(frozen=True)
class RawRows:
    """Rows of a request.

    Args:
        columns: of the bundle.
        given: every raw column, [B]; of few rows as lists of values, else as a table.
        missing: raw columns that no row has, which count as null.
        unknown: names that no encoder reads, the first few of them.
    """

    columns: Mapping[str, RawColumn]
    given: pa.Table | Mapping[str, Sequence[Any]]
    missing: Sequence[str]
    unknown: Sequence[str]

    @property
    def cells(self) -> Mapping[str, Sequence[Any]] | None:
        """The columns as lists of values, where there are few rows."""
        return None if isinstance(self.given, pa.Table) else self.given

    @cached_property
    def table(self) -> pa.Table:
        """The columns as a table."""
        if isinstance(self.given, pa.Table):
            return self.given
        return pa.table({name: pa.array(self.given[name], column.type) for name, column in self.columns.items()})


_DECODER = msgspec.json.Decoder(Body)


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
        found = _ROW.search(str(error))
        row = int(found[1]) if found else None
        reason = _KEY.sub(lambda key: f"unknown key {excerpt(key[1])}", str(error))
        raise RefusalError(
            400, "wrong_shape", f"the body is not as it should be: {reason}", row=row, column="body"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
        raise RefusalError(
            400, "not_json", f"the body should be JSON in UTF-8, received what is not: {reason}", column="body"
        ) from error


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
    if body.count(b":") != keys:
        _refuse_twice(body)
    return Request(None if parsed.user is UNSET else parsed.user, context, candidates, columns)


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
                f"the key {excerpt(part.key)}{where} should stand once, received it again",
                row=row,
                column=part.key,
            )


def raw_rows(body: Request, columns: Mapping[str, RawColumn], *, largest: int, strict: bool) -> RawRows:
    """Lay a request out as raw columns.

    A value that is missing in a row counts as null. A column that no row has also does, and is named in the answer.

    Args:
        body: the request.
        columns: of the bundle.
        largest: number of rows, >= 1.
        strict: whether unknown and missing columns are refused.

    Raises:
        RefusalError: there are no rows or too many, lists differ in length, a column stands in the context and in
            the candidates, a value does not fit, or `strict` finds a column.
    """
    rows = count_rows(body)
    if not 1 <= rows <= largest:
        code = "no_rows" if rows == 0 else "too_many_rows"
        name = "columns" if body.candidates is None else "candidates"
        raise RefusalError(
            400 if rows == 0 else 413,
            code,
            f"'{name}' should have 1 to {largest:,} rows, received {rows:,}",
            row=None if rows == 0 else largest,
            column=name,
        )
    given = body.columns if body.columns is not None else dict.fromkeys(set[str]().union(*(body.candidates or ())))
    unknown = [name for name in (*body.context, *given) if name not in columns]
    missing = [name for name in columns if name not in body.context and name not in given]
    if strict:
        _refuse_strictly(body, unknown, missing, columns)
    if twice := next((name for name in body.context if name in given), None):
        raise RefusalError(
            400,
            "duplicate_column",
            f"column {excerpt(twice)} should stand in the context or in the rows, received both",
            column=twice,
        )
    named = [name[:60] for name in sorted(unknown)[:_NAMED]]
    if rows <= FEW_ROWS:
        return RawRows(columns, {name: _cells(body, column, rows) for name, column in columns.items()}, missing, named)
    return RawRows(
        columns, pa.table({name: _array(body, column, rows) for name, column in columns.items()}), missing, named
    )


def count_rows(body: Request) -> int:
    """Count the rows.

    Args:
        body: the request.

    Raises:
        RefusalError: its columns are no lists of one length.
    """
    if body.columns is None:
        return len(body.candidates or ())
    rows = None
    for name, values in body.columns.items():
        if not isinstance(values, list):
            wanted = f"column {excerpt(name)} of 'columns' should be a list with a value a row"
            raise RefusalError(400, "wrong_type", f"{wanted}, received {excerpt(values)}", column=name)
        rows = len(values) if rows is None else rows
        if len(values) != rows:
            raise RefusalError(
                400,
                "ragged_columns",
                f"column {excerpt(name)} should have {rows:,} rows like the ones before, received {len(values):,}",
                row=min(rows, len(values)),
                column=name,
            )
    return rows or 0


def _refuse_strictly(body: Request, unknown: Sequence[str], missing: Sequence[str], known: Collection[str]) -> None:
    if unknown:
        name = min(unknown)
        rows = enumerate(body.candidates or ())
        row = None if name in body.context else next((number for number, given in rows if name in given), None)
        listed = ", ".join(list(known)[:20])
        raise RefusalError(
            400, "unknown_column", f"column {excerpt(name)} is unknown; known: {listed}", row=row, column=name
        )
    if missing:
        raise RefusalError(
            400,
            "missing_column",
            f"rows should have the column '{missing[0]}', received none with it; strict mode wants every column",
            column=missing[0],
        )


def _array(body: Request, column: RawColumn, rows: int) -> pa.Array:
    if column.name in body.context:
        return pa.repeat(column.array([body.context[column.name]], None)[0], rows)
    values = _values(body, column.name)
    return pa.nulls(rows, column.type) if values is None else column.array(values)


def _cells(body: Request, column: RawColumn, rows: int) -> Sequence[Any]:
    if column.name in body.context:
        return [column.cells([body.context[column.name]], None)[0]] * rows
    values = _values(body, column.name)
    return [None] * rows if values is None else column.cells(values)


def _values(body: Request, name: str) -> Sequence[Any] | None:
    """A value a row of what stands in no context; None for a column that `columns` lacks."""
    if body.columns is not None:
        return body.columns.get(name)
    return [candidate.get(name) for candidate in body.candidates or ()]
