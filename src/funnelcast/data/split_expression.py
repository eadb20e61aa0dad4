"""A split of a description as an SQL expression: 0 TRAIN, 1 VALID, 2 TEST, null for rows in no part."""

from __future__ import annotations

import datetime
import math

from funnelcast.data.description import Border, ColumnSplit, HashSplit, TimeSplit
from funnelcast.data.source import ZONED, column_kind
from funnelcast.data.sql import identifier, literal
from funnelcast.errors import DataError

__all__ = ["split_expression", "stable_hash"]


def split_expression(split: TimeSplit | HashSplit | ColumnSplit, types: dict[str, str]) -> str:
    """Write a split as SQL.

    Args:
        split: the split of a description; its column is known to exist.
        types: column name -> SQL type.

    Raises:
        DataError: borders do not fit the column's type or order, or two parts claim one value.
    """
    if isinstance(split, TimeSplit):
        return _by_time(split, types[split.column])
    if isinstance(split, HashSplit):
        return _by_hash(split)
    return _by_column(split, types[split.column])


def stable_hash(text: str) -> str:
    """Write a hash of a text expression as SQL: 64 bits of MD5, the same in every version of DuckDB.

    Args:
        text: an SQL expression of type VARCHAR.
    """
    return f"md5_number_lower({text})"


def _by_time(split: TimeSplit, sql_type: str) -> str:
    valid, test = (
        _border(split.column, key, border, sql_type)
        for key, border in (("valid_from", split.valid_from), ("test_from", split.test_from))
    )
    if not _ordered(valid, test):
        raise DataError(
            f"split.valid_from should lie before split.test_from, received {split.valid_from} and {split.test_from}"
        )
    column = identifier(split.column)
    if sql_type in ZONED:
        column = f"({column} AT TIME ZONE 'UTC')"
    known = f"{column} IS NOT NULL" + (f" AND NOT isnan({column})" if column_kind(sql_type) == "float" else "")
    return (
        f"CASE WHEN NOT ({known}) THEN NULL WHEN {column} < {literal(valid)} THEN 0 "
        f"WHEN {column} < {literal(test)} THEN 1 ELSE 2 END"
    )


def _ordered(valid: Border, test: Border) -> bool:
    if isinstance(valid, str) and isinstance(test, str):
        return valid.encode() < test.encode()  # the order in which SQL compares text
    return valid < test  # type: ignore[operator]  # both were brought to the column's own type


def _border(column: str, key: str, border: Border, sql_type: str) -> Border:
    """Bring a border to the column's own type."""
    kind = column_kind(sql_type)
    place = f"split.{key}: column '{column}' is of type {sql_type}, so the border should be"
    if kind in ("whole", "float", "decimal"):
        if isinstance(border, bool) or not isinstance(border, int | float) or not math.isfinite(border):
            raise DataError(f"{place} a number, received {border!r}")
        return border
    if kind == "text":
        if not isinstance(border, str):
            raise DataError(f'{place} text in the same form as the column, such as "{border}", received {border!r}')
        return border
    if kind in ("date", "timestamp"):
        return _moment(place, border)
    raise DataError(f"split.column '{column}' should be a date, timestamp, number or text, received type {sql_type}")


def _moment(place: str, border: Border) -> datetime.datetime:
    """Read a date, datetime or ISO text as a naive UTC datetime."""
    if isinstance(border, str):
        try:
            border = datetime.datetime.fromisoformat(border)
        except ValueError as error:
            raise DataError(f"{place} a date or timestamp such as 2022-05-04, received {border!r}") from error
    if isinstance(border, datetime.datetime):
        return border.astimezone(datetime.UTC).replace(tzinfo=None) if border.tzinfo else border
    if isinstance(border, datetime.date):
        return datetime.datetime.combine(border, datetime.time())
    raise DataError(f"{place} a date or timestamp such as 2022-05-04, received {border!r}")


def _by_hash(split: HashSplit) -> str:
    value = f"coalesce(CAST({identifier(split.column)} AS VARCHAR), '')"
    test, valid = (int(share * 2**64) for share in (split.test, split.test + split.valid))
    draw = stable_hash(f"{literal(split.salt + ':')} || {value}")
    # A sum of two comparisons lets DuckDB hash once; inside CASE it would hash once a branch.
    return f"CAST({draw} < CAST({test} AS UBIGINT) AS TINYINT) + CAST({draw} < CAST({valid} AS UBIGINT) AS TINYINT)"


def _by_column(split: ColumnSplit, sql_type: str) -> str:
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    owner: dict[str, str] = {}
    for part, values in parts.items():
        for value in values:
            if owner.setdefault(str(value), part) != part:
                raise DataError(
                    f"split.{part} should not repeat a value of split.{owner[str(value)]}, received {value!r}"
                )
    kind = column_kind(sql_type)
    if kind in ("list", "other"):
        raise DataError(f"split.column '{split.column}' should hold text or numbers, received type {sql_type}")
    column = identifier(split.column)
    # A float column writes 1 as 1.0, so whole numbers compare as numbers there.
    text = f"CAST({column} AS VARCHAR)"
    if kind in ("float", "decimal"):
        text = (
            f"CASE WHEN {column} = trunc({column}) THEN CAST(TRY_CAST({column} AS BIGINT) AS VARCHAR) ELSE {text} END"
        )
    branches = " ".join(
        f"WHEN {text} IN ({', '.join(literal(_name(value, kind)) for value in values) or 'NULL'}) THEN {number}"
        for number, values in enumerate(parts.values())
    )
    return f"CASE {branches} ELSE NULL END"


def _name(value: str | int, kind: str) -> str:
    """A value as the column writes it; "1.0" means 1 in a column of floats."""
    text = str(value)
    if kind in ("float", "decimal"):
        try:
            number = float(text)
        except ValueError:
            return text
        return str(int(number)) if number.is_integer() else text
    return text
