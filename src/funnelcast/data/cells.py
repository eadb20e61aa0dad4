"""Raw cells in one canonical form, whatever type they arrive in: whole numbers or text, one or several a cell."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from funnelcast.arrow import pa, pc
from funnelcast.errors import DataError
from funnelcast.schema import UNKNOWN_ID

__all__ = ["BLANKS", "FIRST_VALUE_ID", "Cells", "ValueType", "canonical", "numbers", "split_cells"]

ValueType = Literal["int64", "string"]
FIRST_VALUE_ID = UNKNOWN_ID + 1
_LARGEST_WHOLE = 2**63 - 1
BLANKS = " \t\n\r\v\f"  # stripped around the items of a multi-valued cell


def canonical(values: pa.Array, column: str, wanted: ValueType | None = None) -> pa.Array:
    """Bring categories to int64 or text.

    Whole numbers, and floats that are all whole, become int64; uint64 becomes text where a number lies beyond int64;
    text stays; booleans become `true` and `false`; dates their ISO text; NaN becomes null.

    Args:
        values: one Arrow array.
        column: its name, for the error message.
        wanted: the type that the encoder knows; None takes what the values suggest.

    Raises:
        DataError: the values cannot be brought to that type; the message names column and types.
    """
    original = values.type
    if pa.types.is_dictionary(original):
        values = values.dictionary_decode()
    try:
        plain = _plain(values)
        target = {"int64": pa.int64(), "string": pa.string()}[wanted] if wanted else plain.type
        return plain if plain.type == target else plain.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        names = {"int64": "whole numbers", "string": "text", None: "text, whole numbers, booleans or dates"}
        raise DataError(
            f"column '{column}' should hold {names[wanted]}, received type {original}: {str(error).splitlines()[0]}"
        ) from error


def _plain(values: pa.Array) -> pa.Array:
    """Categories as int64 or string, by their own type."""
    kind = values.type
    if kind in (pa.int64(), pa.string()):
        return values  # a cast copies nothing, but few rows feel the call
    if pa.types.is_uint64(kind) and (pc.max(values).as_py() or 0) > _LARGEST_WHOLE:
        return values.cast(pa.string())  # such as hashed ids; preparation keeps these columns as text
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return values.cast(pa.int64())
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values).cast(pa.int64())
    if pa.types.is_boolean(kind) or pa.types.is_date(kind):
        return values.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    raise pa.ArrowNotImplementedError(f"{kind} is not a category")


def numbers(values: pa.Array, column: str) -> npt.NDArray[np.float64]:
    """Bring numbers to float64 with NaN for null.

    Args:
        values: one Arrow array.
        column: its name, for the error message.

    Raises:
        DataError: the values are no numbers; the message names column and type.
    """
    try:
        floats = (
            values.cast(pa.float64(), safe=False) if pa.types.is_integer(values.type) else values.cast(pa.float64())
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"column '{column}' should hold numbers, received type {values.type}: {str(error).splitlines()[0]}"
        ) from error
    array: npt.NDArray[np.float64] = floats.to_numpy(zero_copy_only=False)
    return array


class Cells:
    """Several values a cell, as one flat array.

    Args:
        values: the canonical items of all cells, one after the other.
        row: [items] the row of each item.
        rows: number of cells, empty ones included.
    """

    def __init__(self, values: pa.Array, row: npt.NDArray[np.int64], rows: int) -> None:
        self.values = values
        self.row = row
        self.rows = rows

    def lists(self, ids: npt.NDArray[np.int32]) -> pa.Array:
        """Put the ids of the items back into their cells; an empty cell becomes [0].

        Args:
            ids: [items] one id an item.
        """
        lengths = np.bincount(self.row, minlength=self.rows)
        offsets = np.zeros(self.rows + 1, np.int64)
        np.cumsum(np.maximum(lengths, 1), out=offsets[1:])
        flat = np.zeros(offsets[-1], np.int32)
        flat[offsets[self.row] + _position_in_row(self.row, lengths)] = ids
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat))


def split_cells(
    cells: pa.Array, column: str, separator: str | None, max_length: int, wanted: ValueType | None = None
) -> Cells:
    """Take multi-valued cells apart: strip blanks, drop empty and null items, keep the first `max_length`.

    Args:
        cells: text with a separator, or lists.
        column: its name, for the error message.
        separator: text between the items; None for lists.
        max_length: items kept from the front.
        wanted: the type that the encoder knows.

    Raises:
        DataError: the cells are of another kind, or their items cannot be brought to the wanted type.
    """
    lists = _as_lists(cells, column, separator)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(len(lists)), lengths)
    items = canonical(lists.flatten(), column, None)
    if pa.types.is_string(items.type):
        items = pc.ascii_trim(items, BLANKS)
        known = pc.fill_null(pc.not_equal(items, ""), False)
    else:
        known = pc.is_valid(items)
    kept = known.to_numpy(zero_copy_only=False)
    if not kept.all():
        items, row = items.filter(known), row[kept]
    short = _position_in_row(row, np.bincount(row, minlength=len(lists))) < max_length
    if not short.all():
        items, row = items.filter(pa.array(short)), row[short]
    return Cells(canonical(items, column, wanted), row, len(lists))


def _as_lists(cells: pa.Array, column: str, separator: str | None) -> pa.Array:
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells, kind = cells.dictionary_decode(), kind.value_type
    if separator is None:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return cells
        if pa.types.is_null(kind):
            return cells.cast(pa.list_(pa.string()))
        raise DataError(f"column '{column}' should hold lists, received type {kind}")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        raise DataError(f"column '{column}' should hold text separated by '{separator}', received type {kind}")
    return pc.split_pattern(canonical(cells, column, "string"), separator)


def _position_in_row(row: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[items] 0 for the first item of each row, 1 for the second, and so on."""
    starts = np.cumsum(lengths) - lengths
    position: npt.NDArray[np.int64] = np.arange(len(row)) - starts[row]
    return position
