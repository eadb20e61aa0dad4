"""A log of a service as files: rows wait in a queue, a thread writes them; no request waits for the disk."""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from funnelcast.arrow import arrow_errors, has_arrow, pa, pq
from funnelcast.errors import ConfigError
from funnelcast.serving.http.measure import log_line
from funnelcast.serving.http.settings import LogSettings

__all__ = ["FileLog", "check_log"]

_WAKE = 0.2  # seconds between looks at the clock
_SCORES = (
    2_000_000  # of the rows of a file; a request may have thousands of candidates, and Python takes 32 bytes a score
)
_ENCODE = msgspec.json.Encoder().encode


class FileLog:
    """Writes files of Parquet, or of JSON lines.

    A file appears whole under its name, `<name>-<time>-<writer>-<number>` and an ending. The writer is random, since
    containers that share a folder have processes of the same numbers. What has not been written when a process is
    killed is lost, at most `file_seconds` of it; a service that is asked to stop writes all.

    Args:
        name: of the log, with which its files begin.
        folder: is made where it is missing.
        names: columns of a row.
        schema: makes their Arrow schema.
        settings: format, and sizes of queue and files.
        count: called with `written`, `lost` (the queue was full) or `failed` (the disk refused) and a number of rows.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        names: Sequence[str],
        schema: Callable[[], pa.Schema],
        settings: LogSettings,
        count: Callable[[str, int], None],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._folder, self._names, self._schema = name, folder, names, schema
        self._settings, self._count = settings, count
        self._queue: queue.Queue[Mapping[str, Any]] = queue.Queue(settings.waiting)
        self._writer = secrets.token_hex(8)
        self._stop = threading.Event()
        self._files = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def add(self, row: Mapping[str, Any]) -> None:
        """Hand over a row, or count it as lost if too many wait.

        Args:
            row: values of the schema's columns.
        """
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._count("lost", 1)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        rows: list[Mapping[str, Any]] = []
        since, scores = time.monotonic(), 0
        while True:
            stopping = self._stop.is_set()
            try:
                rows.append(self._queue.get(timeout=0.0 if stopping else _WAKE))
                emptied, scores = False, scores + _count_scores(rows[-1])
            except queue.Empty:
                emptied = True
            old = time.monotonic() - since >= self._settings.file_seconds
            enough = len(rows) >= self._settings.file_rows or scores >= _SCORES
            if rows and (enough or old or (stopping and emptied)):
                self._write(rows)
                rows, scores = [], 0
            if not rows:
                since = time.monotonic()
            if stopping and emptied:
                return

    def _write(self, rows: list[Mapping[str, Any]]) -> None:
        self._files += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = self._folder / f"{self._name}-{stamp}-{self._writer}-{self._files:06d}.{self._settings.format}"
        temporary = path.with_suffix(".tmp")
        try:
            if self._settings.format == "parquet":
                pq.write_table(pa.Table.from_pylist(rows, schema=self._schema()), temporary)
            else:
                temporary.write_bytes(b"".join(self._line(row) for row in rows))
            temporary.replace(path)
        except arrow_errors(OSError):
            # A full disk must not stop the answers; the counter says what a reader will miss.
            log_line(f"{self._name}_not_written", level=logging.ERROR, error=True, file=str(path), rows=len(rows))
            self._count("failed", len(rows))
            with contextlib.suppress(OSError):  # what was refused to be written may be refused to be removed
                temporary.unlink(missing_ok=True)
            return
        self._count("written", len(rows))

    def _line(self, row: Mapping[str, Any]) -> bytes:
        return _ENCODE({name: row.get(name) for name in self._names}) + b"\n"


def _count_scores(row: Mapping[str, Any]) -> int:
    """Count the numbers of lists, and of lists by step."""
    lists = [one for value in row.values() for one in (value.values() if isinstance(value, Mapping) else (value,))]
    return sum(len(one) for one in lists if isinstance(one, list))


def check_log(key: str, settings: LogSettings) -> None:
    """Refuse a format, or a folder, that cannot be written here; the folder is made.

    Args:
        key: of the settings, for the message.
        settings: of a log.

    Raises:
        ConfigError: Parquet should be written, and PyArrow is not installed; or the folder cannot be made.
    """
    if settings.folder is None:
        return
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        wanted = f"key '{key}.folder': '{settings.folder}' should be a folder, but cannot be made"
        raise ConfigError(f"{wanted}: {error.strerror}") from error
    if settings.format == "parquet" and not has_arrow():
        raise ConfigError(
            f"key '{key}.format': 'parquet' needs PyArrow, which is not installed; install it by: pip install pyarrow, "
            "or take 'jsonl'"
        )
