"""Raw files -> encoded shards, schema and encoders, in one folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from funnelcast.data.audit import Audit, audit, save_violations
from funnelcast.data.checks import check_columns, text_columns
from funnelcast.data.description import Description
from funnelcast.data.encode import Encoders
from funnelcast.data.fit import fit_columns
from funnelcast.data.fit_statistics import fit_statistics
from funnelcast.data.reading import reading_progress
from funnelcast.data.source import RawSource, open_source, with_text
from funnelcast.data.split import Split
from funnelcast.data.sql import bytes_of, connect, limited, literal
from funnelcast.data.stage import stage, staging_memory
from funnelcast.data.value_statistics import value_statistics
from funnelcast.data.write_parts import write_parts
from funnelcast.errors import ArtifactError, ConfigError, DataError
from funnelcast.files import sha256, write_json
from funnelcast.progress import RowProgress
from funnelcast.schema import Schema, StepValue

__all__ = ["prepare"]

MANIFEST_FORMAT = 1
_DATABASE_SHARE = 0.45  # of the memory limit; the rest is for the libraries themselves and for Arrow
# Of the memory limit, raw bytes encoded at once: reading and encoding take some times that.
_WINDOW_SHARE, _LARGE_WINDOW_SHARE = 0.02, 0.05


def prepare(
    description: Description, out: Path, *, memory_limit: str = "1GB", threads: int | None = None
) -> dict[str, Any]:
    """Prepare a dataset: split, audit, fit the encoders on TRAIN, encode all rows.

    The raw files are read once, never as a whole. Equal input gives equal bytes.

    Args:
        description: the dataset file.
        out: the folder to make; it should not exist yet, or be empty.
        memory_limit: what the process should stay below, such as `1GB`; at least 256MB.
        threads: worker threads, >= 1; by default one a processor.

    Returns:
        The manifest: rows, positives and files of each part, and the findings of the label audit.

    Raises:
        ConfigError: the memory limit or the number of threads is impossible, or the limit too small for the data.
        DataError: the raw files do not fit the description, or the folder is in use.
        ArtifactError: the folder cannot be written: no permission, no space.
    """
    memory = bytes_of(memory_limit)
    threads = threads if threads is not None else os.cpu_count() or 1
    if threads < 1:
        raise ConfigError(f"threads should be at least 1, received {threads}")
    with _folder_at_once(out) as (result, work):
        try:
            own, staging = int(memory * _DATABASE_SHARE), staging_memory(description, threads)
            with connect(work / "spill", own, threads) as connection:
                with limited(connection, max(own, staging) if staging < memory else own, afterwards=own):
                    source = _stage(connection, description, work)
                found, encoders, own_statistics = _fit(connection, description, source, result, work)
        except duckdb.OutOfMemoryException as error:
            raise ConfigError(
                f"memory limit should be larger for these data, or threads fewer, received {memory_limit} and "
                f"{threads} thread(s): {str(error).splitlines()[0]}"
            ) from error
        window = int(memory * (_LARGE_WINDOW_SHARE if encoders.hash_anew else _WINDOW_SHARE))
        with RowProgress("encode", found.source_rows) as progress:
            files = write_parts(
                description,
                encoders,
                work / "staged.parquet",
                own_statistics,
                result,
                window_bytes=window,
                threads=threads,
                progress=progress,
            )
        values = value_statistics(description, work / "staged.parquet")
        _schema(description, encoders, found, values).save(result / "schema.json")
        encoders.save(result / "encoders.json")
        manifest = _manifest(description, found, files, result)
        write_json(result / "manifest.json", manifest)
    return manifest


@contextmanager
def _folder_at_once(out: Path) -> Iterator[tuple[Path, Path]]:
    """Give a folder for the result and one for work; the result gets its name at the end, the rest goes away."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: should be a new or empty folder, received one that holds files; remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ArtifactError(f"{out}: should be a folder that can be made, received: {error}") from error
    try:
        result, work = temporary / "result", temporary / "work"
        result.mkdir()
        work.mkdir()
        yield result, work
        result.replace(out)
    except OSError as error:
        raise ArtifactError(f"{out}: the prepared files could not be written: {error}") from error
    finally:
        shutil.rmtree(temporary)


def _stage(connection: duckdb.DuckDBPyConnection, description: Description, work: Path) -> RawSource:
    """Read the raw files once."""
    source = with_text(open_source(connection, description.source), text_columns(description))
    check_columns(description, source)
    with reading_progress(connection, source):
        stage(connection, description, source, work / "staged.parquet")
    return source


def _fit(
    connection: duckdb.DuckDBPyConnection, description: Description, source: RawSource, result: Path, work: Path
) -> tuple[Audit, Encoders, list[Path]]:
    """Check the staged rows, and fit all encoders."""
    staged = work / "staged.parquet"
    found = audit(connection, description, source, f"read_parquet({literal(str(staged))})")
    if found.violating_rows and description.labels.sample:
        save_violations(connection, description, source, result / "violations.parquet")
    passes = len(description.features) + len(description.target_statistics)
    with RowProgress("fit", passes * found.source_rows) as progress:
        columns = fit_columns(connection, description, staged, progress)
        statistics = fit_statistics(connection, description, staged, work, progress)
    encoders = Encoders(columns, [statistic for statistic, _ in statistics])
    return found, encoders, [own for _, own in statistics]


def _schema(description: Description, encoders: Encoders, found: Audit, values: StepValue | None) -> Schema:
    pairs = zip(found.steps(), description.steps, strict=True)
    steps = [step.model_copy(update={"parents": own.parents, "group": own.group}) for step, own in pairs]
    return Schema(
        dataset=description.name,
        fields=tuple(encoders.fields()),
        steps=(*steps[:-1], steps[-1].model_copy(update={"value": values})),
        has_user=description.user is not None,
        has_weight=description.weight is not None,
        has_truth=all(step.true_reach and step.true_transition for step in description.steps),
        has_potential=all(step.true_potential for step in description.steps),
        protocol=description.protocol,
    )


def _manifest(
    description: Description, found: Audit, files: dict[Split, list[dict[str, Any]]], result: Path
) -> dict[str, Any]:
    steps = [step.name for step in description.steps]
    # Names without their folders: equal input gives equal bytes wherever it lies.
    names = tuple(Path(file).name for file in description.source.files)
    written = description.model_copy(update={"source": description.source.model_copy(update={"files": names})})
    return {
        "format": MANIFEST_FORMAT,
        "dataset": description.name,
        "description": written.model_dump(mode="json"),
        "splits": {
            split.value: {
                "rows": counts.rows,
                "observed": dict(zip(steps, counts.observed, strict=True)),
                "positives": dict(zip(steps, counts.positives, strict=True)),
                "files": files[split],
            }
            for split, counts in found.parts.items()
        },
        "left_out": found.left_out,
        "audit": {
            "action": description.labels.violations,
            "violations": found.violations,
            "rows": found.violating_rows,
        },
        "files": {name: sha256(result / name) for name in ("schema.json", "encoders.json")},
    }
