"""Raw files -> scored files, part by part: memory holds a piece of a part, and a run that was killed goes on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.errors import ArtifactError, ConfigError, DataError
from funnelcast.files import read_json, temporary_beside, write_json
from funnelcast.progress import RowProgress
from funnelcast.schema import score_columns
from funnelcast.serving.bundle import Bundle
from funnelcast.serving.plan import Part, Plan, first_line
from funnelcast.serving.score_files_pieces import pieces

__all__ = ["SUCCESS", "VERSION_COLUMN", "score_files"]

PLAN_FORMAT, SUCCESS_FORMAT = 2, 1  # plans of format 1 did not say when a file was written
PLAN, SUCCESS, LOCK = "_PLAN.json", "_SUCCESS", ".lock"
_UNFINISHED = f".{PLAN}.*.tmp"
VERSION_COLUMN = "model_version"
_OTHERS = {
    VERSION_COLUMN: "another model_version",
    "keep": "another keep",
    "files": "other files",
    "parts": "other parts",
}


def score_files(bundle: Bundle, source: Path, target: Path, *, keep: Sequence[str] = ()) -> int:
    """Score a Parquet file, or all of a folder, into a folder of Parquet files.

    Each part appears whole or not at all, under a name that the input alone decides; parts that are there are not
    computed again. `_SUCCESS` is written last, and goes before anything of a finished folder is written again. Rows
    keep their order: that of the files' names, then that in the file.

    Args:
        bundle: what scores.
        source: a Parquet file, or a folder of them.
        target: the folder; new, or that of the same command before.
        keep: raw columns to write beside the scores.

    Returns:
        The number of rows.

    Raises:
        ConfigError: there is no input, a kept column has the name of a score, or the folder holds something else.
        DataError: a column is missing or does not fit, or a file is damaged or changed meanwhile; the message names
            the file.
        ArtifactError: a part of the folder is damaged, the disk is full, or another process writes there.
    """
    plan = Plan.of(source)
    scores = [*score_columns(bundle.schema), VERSION_COLUMN]
    if taken := [name for name in keep if name in scores]:
        raise ConfigError(f"--keep should name raw columns, received '{taken[0]}', under which scores are written")
    if twice := [name for name in keep if list(keep).count(name) > 1]:
        raise ConfigError(f"--keep should name a column once, received '{twice[0]}' again")
    plan.check_columns(bundle.encoders.raw_columns(), "the encoders")
    plan.check_columns(keep, "--keep")
    try:
        _make(target)
        with _lock(target), RowProgress(f"score {source.name}", plan.rows) as progress:
            missing = _prepare(target, bundle, plan, keep)
            progress.advance(plan.rows - sum(part.rows for part in missing))
            for part in missing:
                _write_part(bundle, plan, part, target / part.name, keep)
                progress.advance(part.rows)
            record = {"rows": plan.rows, "parts": len(plan.parts), VERSION_COLUMN: bundle.version}
            write_json(target / SUCCESS, {"format": SUCCESS_FORMAT, **record})
    except OSError as error:
        raise ArtifactError(f"{target}: scores could not be written: {first_line(error)}") from error
    return plan.rows


def _make(target: Path) -> None:
    """Make the folder, or find that it is one of scores."""
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: should be a folder, received a file")
    target.mkdir(parents=True, exist_ok=True)
    if not (target / PLAN).exists() and not {*target.glob(_UNFINISHED), target / LOCK}.issuperset(target.iterdir()):
        raise ConfigError(f"{target}: should be a new or empty folder, but holds other files")


def _prepare(target: Path, bundle: Bundle, plan: Plan, keep: Sequence[str]) -> list[Part]:
    """Write the plan, or find that it is the same, and return the parts that are missing."""
    record: dict[str, Any] = {VERSION_COLUMN: bundle.version, "keep": list(keep), **plan.to_json()}
    same = (target / PLAN).exists() and _is_plan(target, record)
    try:
        missing = [part for part in plan.parts if not _done(target / part.name, part)]
    except ArtifactError:
        (target / SUCCESS).unlink(missing_ok=True)
        raise
    if missing:  # before the plan and the parts, so that nobody finds it beside those of which some are to come
        (target / SUCCESS).unlink(missing_ok=True)
    if not same:
        write_json(target / PLAN, {"format": PLAN_FORMAT, **record})
    return missing


def _is_plan(target: Path, record: dict[str, Any]) -> bool:
    """Compare the plan that is there; another one of which no part is there gives way."""
    former = read_json(target / PLAN, "the plan of scores", "format")
    if former["format"] != PLAN_FORMAT:
        found = f"scores by another version of funnelcast, plan format {former['format']!r} instead of {PLAN_FORMAT}"
    else:
        former = read_json(target / PLAN, "the plan of scores", *record)
        changed = [key for key, value in record.items() if former[key] != value]
        if not changed:
            return True
        found = f"scores of {' and '.join(_OTHERS[key] for key in changed)}"
        found += _other_file(former["files"], record["files"])
    if any(target.glob("part-*")):
        raise ConfigError(f"{target}: holds {found}; choose another folder, or remove this one")
    return False


def _other_file(former: list[dict[str, Any]], files: list[dict[str, Any]]) -> str:
    """Say in brackets which raw file is another one, and by what."""
    before, now = ({file["name"]: file for file in some} for some in (former, files))
    for name in sorted({*before, *now}):
        if name not in before or name not in now:
            return f" ({name} {'is gone' if name in before else 'is new'})"
        if changed := [key for key, value in now[name].items() if before[name].get(key) != value]:
            return f" ({name} differs in {', '.join(changed)})"
    return ""


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Hold the folder against a second process, and clear away what a killed one left."""
    with (target / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(f"{target}: another process is writing scores there") from error
        for path in (*target.glob(".part-*.tmp"), *target.glob(_UNFINISHED)):
            path.unlink()
        yield


def _done(path: Path, part: Part) -> bool:
    """Say whether a part is there."""
    if not path.exists():
        return False
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: is damaged, remove it: {first_line(error)}") from error
    if rows != part.rows:
        raise ArtifactError(f"{path}: should have {part.rows:,} rows, received {rows:,}; remove it")
    return True


def _write_part(bundle: Bundle, plan: Plan, part: Part, path: Path, keep: Sequence[str]) -> None:
    source = plan.folder / plan.files[part.source].name
    kept = [plan.schemas[part.source].field(name) for name in keep]
    scores = [pa.field(name, pa.float32()) for name in score_columns(bundle.schema)]
    schema = pa.schema([*kept, *scores, pa.field(VERSION_COLUMN, pa.string())])
    columns = list(dict.fromkeys([*bundle.encoders.raw_columns(), *keep]))
    temporary = temporary_beside(path)
    rows = 0
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            for first, piece in pieces(source, plan.files[part.source], part, columns):
                with _row_named(bundle, piece, first):
                    writer.write_table(_scored(bundle, piece, keep, schema))
                rows += piece.num_rows
                del piece  # so that it is gone while the next one is read
        if rows != part.rows:
            raise DataError(f"{source}: should have {part.rows:,} rows in a part, received {rows:,}")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (DataError, pa.ArrowException) as error:
        words = first_line(error)
        raise DataError(words if words.startswith(str(source)) else f"{source}: {words}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _row_named(bundle: Bundle, piece: pa.Table, first: int) -> Iterator[None]:
    """Let an error name the first row that does not fit; where a column's type itself does not, no row is at fault."""
    try:
        yield
    except DataError as error:
        fitting, failing = 0, piece.num_rows  # so many rows from the front; halved until they are neighbours
        if _refusal(bundle, piece.slice(0, 0)) is not None:
            raise
        while failing - fitting > 1:
            middle = (fitting + failing) // 2
            fitting, failing = (
                (middle, failing) if _refusal(bundle, piece.slice(0, middle)) is None else (fitting, middle)
            )
        raise DataError(f"row {first + fitting + 1:,}: {_refusal(bundle, piece.slice(fitting, 1)) or error}") from error


def _refusal(bundle: Bundle, rows: pa.Table) -> DataError | None:
    try:
        bundle.encode(rows)
    except DataError as error:
        return error
    return None


def _scored(bundle: Bundle, raw: pa.Table, keep: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Lay kept columns, scores and the version side by side."""
    reach, transition, value = bundle.score(raw)
    scores = [column for pair in zip(reach.T, transition.T, strict=True) for column in pair]
    scores += [] if value is None else [value]
    arrays = [pa.array(np.ascontiguousarray(column)) for column in scores]
    version = pa.repeat(bundle.version, raw.num_rows)
    return pa.table([*(raw[name] for name in keep), *arrays, version], schema=schema)
