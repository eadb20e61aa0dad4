"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funnelcast.errors import ArtifactError

__all__ = [
    "check_sha256",
    "json_sha256",
    "make_folder",
    "read_json",
    "sha256",
    "temporary_beside",
    "write_bytes",
    "write_json",
]


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal text.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(record: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of JSON values, whatever the order of keys and the blanks of the file they stand in.

    Args:
        record: anything JSON can hold.

    Example:
        >>> json_sha256({"a": 1, "b": 2}) == json_sha256({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is missing or has changed since it was written.

    Args:
        path: the file.
        expected: the checksum from its manifest.

    Raises:
        ArtifactError: the file is missing or damaged; both checksums are named.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: is missing")
    found = sha256(path)
    if found != expected:
        raise ArtifactError(f"{path}: has changed or is damaged: sha256 should be {expected}, received {found}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; one that is there stays.

    Args:
        folder: the folder.

    Raises:
        ArtifactError: it cannot be made, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder}: should be a folder, but cannot be made: {error.strerror}") from error


def temporary_beside(path: Path) -> Path:
    """Return a name for what will be moved to a path when it is complete; no other writer has it.

    Containers that share a folder have processes of the same numbers, so the name is drawn.

    Args:
        path: the file or folder that is to appear whole.

    Example:
        >>> temporary_beside(Path("runs/report.json")).match("runs/.report.json.*.tmp")
        True
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step: readers see the old content or the new one, never a part.

    Args:
        path: the file; an existing one is replaced.
        data: its content.

    Raises:
        ArtifactError: the disk is full, read-only, or the folder is missing; the old file stays.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: {len(data)} bytes could not be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be missing or no folder
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in one step.

    Args:
        path: the file; an existing one is replaced.
        value: anything JSON can hold; NaN and infinities are refused.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, kind: str, *keys: str, version: int | None = None) -> dict[str, Any]:
    """Read a JSON file of ours.

    Args:
        path: the file.
        kind: what it should be, for the error message.
        keys: the keys it should have at the least.
        version: the number its key `format` should hold; None for a file without one.

    Raises:
        ArtifactError: the file is missing, cannot be read, is not a JSON object, lacks a key, or is of another format.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: should be {kind}, but does not exist") from error
    except OSError as error:
        raise ArtifactError(f"{path}: should be {kind}, but cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting among them
        raise ArtifactError(f"{path}: should be {kind}, received damaged JSON: {error}") from error
    if not isinstance(record, dict):
        raise ArtifactError(f"{path}: should be {kind}, received JSON without keys")
    if version is not None and record.get("format") != version:
        raise ArtifactError(f"{path}: format should be {version}, received {record.get('format')!r}")
    for key in keys:
        if key not in record:
            raise ArtifactError(f"{path}: should be {kind}, but its key '{key}' is missing")
    return record
