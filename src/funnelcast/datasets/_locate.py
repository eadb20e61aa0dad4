"""Find a recipe's files where the user says they are, or tell where to get them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.data.description import Description, Source, StepColumn, TimeSplit
from funnelcast.errors import DataError

__all__ = [
    "Recipe",
    "by_date",
    "check_columns",
    "describe_parquet",
    "locate",
    "locate_folder",
    "missing_file",
    "used_columns",
]


class Recipe(Protocol):
    """What every dataset says about its files."""

    terms: str
    where: str


def missing_file(recipe: Recipe, received: str) -> DataError:
    """Build the error for a file that is not there, with the place to get it and its terms.

    Args:
        recipe: the dataset's class.
        received: what should be where, and what was found.
    """
    return DataError(f"{received}. Where to get it: {recipe.where} Terms: {recipe.terms}")


def locate(recipe: Recipe, source: Path | None, *names: str) -> Path:
    """Find the one file of a recipe.

    Args:
        recipe: the dataset's class.
        source: the file itself, whatever its name, or the folder that holds it.
        names: the names to look for in a folder, the preferred one first.

    Raises:
        DataError: there is no such file; the message names it, where to get it, and its terms.
    """
    wanted = " or ".join(names)
    if source is None:
        raise missing_file(recipe, f"source should be the file {wanted} or its folder, received nothing")
    if source.is_file():
        return source
    for name in names:
        if (source / name).is_file():
            return source / name
    received = "a folder without it" if source.is_dir() else "a path that does not exist"
    raise missing_file(recipe, f"{source}: should be the file {wanted} or its folder, received {received}")


def locate_folder(recipe: Recipe, source: Path | None, names: Iterable[str]) -> dict[str, Path]:
    """Find all files of a recipe in one folder.

    Args:
        recipe: the dataset's class.
        source: the folder.
        names: the files' names.

    Raises:
        DataError: a file is missing; the message names it, where to get it, and its terms.
    """
    names = list(names)
    if source is None or not source.is_dir():
        received = "nothing" if source is None else str(source)
        raise missing_file(recipe, f"source should be the folder with {', '.join(names)}, received {received}")
    missing = [name for name in names if not (source / name).is_file()]
    if missing:
        raise missing_file(recipe, f"{source}: should hold {', '.join(names)}, missing: {', '.join(missing)}")
    return {name: source / name for name in names}


def used_columns(description: Description) -> list[str]:
    """List the raw columns that a description reads, each once.

    Args:
        description: any description.
    """
    columns = [feature.column for feature in description.features]
    columns += [step.column for step in description.steps]
    columns += [description.split.column, description.user or "", description.time or ""]
    return [column for column in dict.fromkeys(columns) if column]


def check_columns(path: Path, columns: Iterable[str]) -> None:
    """Refuse a Parquet file that lacks columns.

    Args:
        path: the file.
        columns: the columns it should have.

    Raises:
        DataError: the file is no Parquet file, or lacks columns; the message names all of them.
    """
    try:
        found = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: should be a readable Parquet file, received: {error}") from error
    missing = [column for column in columns if column not in found]
    if missing:
        raise DataError(f"{path}: should have the column(s) {', '.join(missing)}, received only {', '.join(found)}")


def by_date(column: str, valid_from: str, test_from: str) -> TimeSplit:
    """Split by dates.

    Args:
        column: a column of dates.
        valid_from: first day of VALID, such as `2022-05-04`.
        test_from: first day of TEST.
    """
    first, second = (datetime.date.fromisoformat(day) for day in (valid_from, test_from))
    return TimeSplit(kind="time", column=column, valid_from=first, test_from=second)


def describe_parquet(
    recipe: Recipe, source: Path | None, file: str, *, steps: Iterable[str], **keys: Any
) -> Description:
    """Describe a recipe's one Parquet file, whose label columns bear the names of the steps.

    Args:
        recipe: the dataset's class; the description bears the name of its module.
        source: the file or its folder.
        file: the file's name in a folder.
        steps: the funnel in order.
        keys: the other keys of the description.

    Raises:
        DataError: the file is missing or lacks columns.
    """
    path = locate(recipe, source, file)
    name = recipe.__module__.rpartition(".")[2]
    columns = tuple(StepColumn(name=step) for step in steps)
    description = Description(name=name, source=Source(files=(str(path),), format="parquet"), steps=columns, **keys)
    check_columns(path, used_columns(description))
    return description
