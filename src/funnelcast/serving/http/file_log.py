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
# A request may have thousands of candidates, and Python takes 32 bytes a score.
_SCORES = 2_000_000  # of the rows of a file
_WAITING_SCORES = 2_000_000  # of the rows that wait
_ENCODE = msgspec.json.Encoder().encode
_Row = Mapping[str, Any]
_Counted = tuple[_Row, int]  # a row and its scores


class _Waiting(queue.Queue[_Counted]):
    """Rows that wait, and how many scores they have together; the queue's own lock guards the sum as well."""

    scores = 0

    def _put(self, item: _Counted) -> None:
        super()._put(item)
        self.scores += item[1]

    def _get(self) -> _Counted:
        item = super()._get()
        self.scores -= item[1]
        return item


class FileLog:
    """Writes files of Parquet, or of JSON lines.

    A file appears whole under its name, `<name>-<time>-<writer>-<number>` and an ending. The writer is random, since
    containers that share a folder have processes of the same numbers. What has not been written when a process is
    killed is lost, at most `file_seconds` of it; a service that is asked to stop writes all. What the system refuses,
    for lack of room or of open files, is tried once more before its rows are counted as failed.

    Args:
        name: of the log, with which its files begin.
        folder: is made where it is missing.
        names: columns of a row.
        schema: makes their Arrow schema.
        settings: format, and sizes of queue and files.
        count: called with `written`, `lost` (too many rows or scores wait) or `failed` (they could not be written) and
            a number of rows.

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
        self._queue = _Waiting(settings.waiting)
        self._writer = secrets.token_hex(8)
        self._stop = threading.Event()
        self._files = 0
        self._told: set[str] = set()  # kinds of failures that nobody expects, so that each is logged once
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def add(self, row: _Row) -> None:
        """Hand over a row, or count it as lost if too many rows or scores wait.

        Args:
            row: values of the schema's columns.
        """
        # Looked at without the lock: threads that come at one moment may bring a row each too many.
        if self._queue.scores >= _WAITING_SCORES:
            self._count("lost", 1)
            return
        try:
            self._queue.put_nowait((row, _count_scores(row)))
        except queue.Full:
            self._count("lost", 1)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        rows: list[_Row] = []
        since, scores = time.monotonic(), 0
        while True:
            stopping = self._stop.is_set()
            try:
                row, more = self._queue.get(timeout=0.0 if stopping else _WAKE)
                rows.append(row)
                emptied, scores = False, scores + more
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

    def _write(self, rows: list[_Row]) -> None:
        """Write a file, or say why not; whatever it is, the thread goes on."""
        self._files += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = self._folder / f"{self._name}-{stamp}-{self._writer}-{self._files:06d}.{self._settings.format}"
        try:
            self._write_file(path, rows)
            end = "written"
        except Exception as error:
            # A full disk must not stop the answers; the counter says what a reader will miss.
            end = "failed"
            self._tell(error, f"{self._name}_not_written", file=str(path), rows=len(rows))
            with contextlib.suppress(OSError):  # what was refused to be written may be refused to be removed
                path.with_suffix(".tmp").unlink(missing_ok=True)
        try:
            self._count(end, len(rows))
        except Exception as error:  # counters of several workers are files, too
            self._tell(error, f"{self._name}_not_counted", rows=len(rows))

    def _tell(self, error: Exception, event: str, **said: Any) -> None:
        """Log what the disk refused, and what nobody expects once a kind."""
        kind = type(error).__name__
        if isinstance(error, arrow_errors(OSError)) or kind not in self._told:
            self._told.add(kind)
            log_line(event, level=logging.ERROR, error=True, **said)

    def _write_file(self, path: Path, rows: list[_Row]) -> None:
        """Write a file in two tries at the most, under the same names, so that no row stands twice."""
        with contextlib.suppress(OSError):
            self._try_to_write(path, rows)
            return
        self._pause()
        self._try_to_write(path, rows)

    def _try_to_write(self, path: Path, rows: list[_Row]) -> None:
        temporary = path.with_suffix(".tmp")
        if self._settings.format == "parquet":
            pq.write_table(pa.Table.from_pylist(rows, schema=self._schema()), temporary)
        else:
            temporary.write_bytes(b"".join(self._line(row) for row in rows))
        temporary.replace(path)

    def _pause(self) -> None:
        """Wait as long as a file is gathered, unless the rows that come meanwhile take half of their room."""
        end, waiting = time.monotonic() + self._settings.file_seconds, self._queue
        while time.monotonic() < end and not self._stop.wait(_WAKE):
            if 2 * waiting.qsize() >= self._settings.waiting or 2 * waiting.scores >= _WAITING_SCORES:
                return

    def _line(self, row: _Row) -> bytes:
        return _ENCODE({name: row.get(name) for name in self._names}) + b"\n"


def _count_scores(row: _Row) -> int:
    """Count the numbers of lists, and of lists by step."""
    found = 0
    for value in row.values():
        if isinstance(value, list):
            found += len(value)
        elif isinstance(value, dict):
            found += sum(map(len, value.values()))
    return found


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
