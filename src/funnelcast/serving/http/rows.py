"""The parts of a request -> raw columns, as the encoders read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

from funnelcast.arrow import has_arrow, pa
from funnelcast.data.encode_few import Repeated
from funnelcast.serving.http.columns import RawColumn
from funnelcast.serving.http.decode import Request
from funnelcast.serving.http.refusal import RefusalError, excerpt, quoted

__all__ = ["FEW_ROWS", "Laid", "RawRows", "count_rows", "joined_cells", "lay_out", "listed", "raw_rows", "takes_lists"]

_REPEATED = 1 << 24  # bytes that a context may take if it were written once a row
FEW_ROWS = 128  # up to which lists of values are encoded faster than Arrow's arrays
_NAMED = 8  # columns listed in one answer
_LISTED = 20  # and in a message
Cells = Sequence[Any] | Repeated


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
    given: pa.Table | Mapping[str, Cells]
    missing: Sequence[str]
    unknown: Sequence[str]

    @property
    def cells(self) -> Mapping[str, Cells] | None:
        """The columns as lists of values, where there are few rows."""
        return self.given if isinstance(self.given, Mapping) else None

    @cached_property
    def table(self) -> pa.Table:
        """The columns as a table."""
        if not isinstance(self.given, Mapping):
            return self.given
        repeated = {name: cells for name, cells in self.given.items() if isinstance(cells, Repeated)}
        bytes_ = sum(_bytes(cells.value) * cells.rows for cells in repeated.values())
        if bytes_ > _REPEATED:
            message = f"the context should have at most {_REPEATED:,} bytes, once a row, received {bytes_:,}"
            raise RefusalError(413, "too_large", message, column="context")
        given = {name: cells.cells() if isinstance(cells, Repeated) else cells for name, cells in self.given.items()}
        return pa.table({name: pa.array(given[name], column.type) for name, column in self.columns.items()})


@dataclass(frozen=True)
class Laid:
    """A request laid out by columns, whose values have not been looked at.

    Args:
        rows: B >= 1.
        context: columns with one value for all rows.
        given: the other columns, [B] each.
        missing: as of `RawRows`.
        unknown: as of `RawRows`.
        sound: names of columns whose values were looked at after all, and fit.
    """

    rows: int
    context: Mapping[str, Any]
    given: Mapping[str, Sequence[Any]]
    missing: Sequence[str]
    unknown: Sequence[str]
    sound: Collection[str] = ()

    def raw(self, columns: Mapping[str, RawColumn]) -> RawRows:
        """Bring the values to the types of their columns.

        Args:
            columns: of the bundle.

        Raises:
            RefusalError: a value does not fit.
        """
        # A long text or list of the context is not to be written once a row; as a list's one value it is encoded once.
        lists = takes_lists(self.rows) or self.rows * sum(map(_bytes, self.context.values())) > _REPEATED
        make = self._cells if lists else self._array
        made = {name: make(column) for name, column in columns.items()}
        return RawRows(columns, made if lists else pa.table(made), self.missing, self.unknown)

    def _cells(self, column: RawColumn) -> Cells:
        name = column.name
        if name in self.given:
            return self.given[name] if name in self.sound else column.cells(self.given[name])
        value = self.context.get(name)
        return Repeated(value if value is None or name in self.sound else column.cell(value), self.rows)

    def _array(self, column: RawColumn) -> pa.Array:
        if column.name in self.given:
            return column.array(self.given[column.name])
        if column.name in self.context:
            return pa.repeat(column.array([self.context[column.name]], None)[0], self.rows)
        return pa.nulls(self.rows, column.type)


def lay_out(body: Request, columns: Mapping[str, RawColumn], *, largest: int, strict: bool) -> Laid:
    """Lay a request out by columns.

    A value that is missing in a row counts as null. A column that no row has also does, and is named in the answer.

    Args:
        body: the request.
        columns: of the bundle.
        largest: number of rows, >= 1.
        strict: whether unknown and missing columns are refused.

    Raises:
        RefusalError: there are no rows or too many, lists differ in length, a column stands in the context and in
            the candidates, or `strict` finds a column.
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
    given = body.columns if body.columns is not None else _columns(body.candidates or (), columns)
    unknown = [name for name in (*body.context, *given) if name not in columns]
    missing = [name for name in columns if name not in body.context and name not in given]
    if strict:
        _refuse_strictly(body, unknown, missing, columns)
    if twice := [name for name in body.context if name in given]:
        raise RefusalError(
            400,
            "duplicate_column",
            f"column {quoted(twice[0])} should stand in the context or in the rows, received both",
            column=twice[0],
        )
    named = [name[:60] for name in sorted(unknown)[:_NAMED]]
    return Laid(rows, body.context, given, missing, named)


def raw_rows(body: Request, columns: Mapping[str, RawColumn], *, largest: int, strict: bool) -> RawRows:
    """Bring a request to raw columns.

    Args:
        body: as for `lay_out`.
        columns: as for `lay_out`.
        largest: as for `lay_out`.
        strict: as for `lay_out`.

    Raises:
        RefusalError: as `lay_out`, or a value does not fit.
    """
    return lay_out(body, columns, largest=largest, strict=strict).raw(columns)


def joined_cells(requests: Sequence[Laid], columns: Mapping[str, RawColumn]) -> Mapping[str, Cells]:
    """Bring several requests of one row each to columns of a row a request; a column costs more than its rows.

    Args:
        requests: of one row each.
        columns: of the bundle.

    Raises:
        RefusalError: a value does not fit; it does not say whose.
    """
    rows = [{**one.context, **{name: values[0] for name, values in one.given.items() if values}} for one in requests]
    return {name: column.cells([row.get(name) for row in rows]) for name, column in columns.items()}


def _columns(candidates: Sequence[Mapping[str, Any]], known: Collection[str]) -> Mapping[str, Sequence[Any]]:
    """Turn rows into columns; a value that a row lacks is null. Names that are not known may have no values."""
    first = candidates[0]
    if len(first) > 1 and all(len(candidate) == len(first) for candidate in candidates):
        try:  # usually all have the same names, and this takes half the time
            return dict(zip(first, zip(*map(itemgetter(*first), candidates), strict=True), strict=True))
        except KeyError:
            pass
    names = dict.fromkeys(name for candidate in candidates for name in candidate)
    # A row may have very many names; to look for each of them in all rows would take very long.
    return {name: [candidate.get(name) for candidate in candidates] if name in known else () for name in names}


def takes_lists(rows: int) -> bool:
    """Say whether columns of so many rows should be lists of values, which few rows are, and all without PyArrow.

    Args:
        rows: of a request.
    """
    return rows <= FEW_ROWS or not has_arrow()


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
            wanted = f"column {quoted(name)} of 'columns' should be a list with a value a row"
            raise RefusalError(400, "wrong_type", f"{wanted}, received {excerpt(values)}", column=name)
        rows = len(values) if rows is None else rows
        if len(values) != rows:
            raise RefusalError(
                400,
                "ragged_columns",
                f"column {quoted(name)} should have {rows:,} rows like the ones before, received {len(values):,}",
                row=min(rows, len(values)),
                column=name,
            )
    return rows or 0


def listed(names: Collection[str]) -> str:
    """Name columns for a message, not more than can be read.

    Args:
        names: of all.

    Example:
        >>> listed(["tab", "price"])
        'tab, price'
    """
    more = len(names) - _LISTED
    return ", ".join(list(names)[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _refuse_strictly(body: Request, unknown: Sequence[str], missing: Sequence[str], known: Collection[str]) -> None:
    if unknown:
        name = min(unknown)
        rows = enumerate(body.candidates or ())
        row = None if name in body.context else next((number for number, given in rows if name in given), None)
        message = f"column {quoted(name)} is unknown; known: {listed(known)}"
        raise RefusalError(400, "unknown_column", message, row=row, column=name)
    if missing:
        raise RefusalError(
            400,
            "missing_column",
            f"rows should have the column '{missing[0]}', received none with it; strict mode wants every column",
            column=missing[0],
        )


def _bytes(value: Any) -> int:
    """Estimate what a value takes in an array."""
    if isinstance(value, str):
        return 4 * len(value)
    return 8 + sum(map(_bytes, value)) if isinstance(value, list) else 8
