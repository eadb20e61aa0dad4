"""Shadow scoring: bundles that score a sample of the requests after these were answered, for comparison alone."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from funnelcast.arrow import pa
from funnelcast.serving.http.answer import score_rows
from funnelcast.serving.http.decode import parse_body
from funnelcast.serving.http.file_log import FileLog
from funnelcast.serving.http.measure import Metrics, log_line
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.rows import raw_rows
from funnelcast.serving.http.settings import ShadowSettings
from funnelcast.serving.http.variants import Variant, Variants
from funnelcast.serving.scorer import Floats

__all__ = ["Shadow", "ShadowJob", "shadow_schema"]

_TEXT = ("request_id", "variant", "model_version", "shadow", "shadow_version")
_REACH = ("reach", "shadow_reach")
_WAKE = 0.2  # seconds between looks at whether to stop
_IDLE = 0.005  # seconds between looks at whether the process has nothing else to do
_LEAVE = 2.0  # seconds that a shadow has to end what it scores when the service stops


@dataclass(frozen=True)
class ShadowJob:
    """A request that was answered.

    Args:
        body: JSON that was scored.
        request_id: of the request.
        primary: whose scores the client got.
        reach: [B, S] these scores.
    """

    body: bytes
    request_id: str
    primary: Variant
    reach: Floats


class Shadow:
    """Scores requests once more, in one thread, while no request waits for the process.

    The thread has no lower priority of the operating system: one that was put to sleep while it holds Python's lock
    would keep the others waiting. It begins nothing while a request is scored or waits; one that comes meanwhile
    shares the processor with the one job that runs. What waits is bounded, and what is too much is dropped.

    Args:
        variants: of the service, which the shadows are among.
        settings: shares and sizes.
        metrics: of the service.
        is_busy: whether requests are scored or wait.

    Raises:
        OSError: the log's folder cannot be made.
    """

    def __init__(
        self, variants: Variants, settings: ShadowSettings, metrics: Metrics, is_busy: Callable[[], bool]
    ) -> None:
        self._variants, self._settings, self._metrics, self._is_busy = variants, settings, metrics, is_busy
        self._queue: queue.Queue[tuple[str, ShadowJob]] = queue.Queue(settings.waiting)
        self._held, self._lock = 0, threading.Lock()
        self._told: set[tuple[str, str]] = set()  # what has been logged, so that it is logged once
        self._stop = threading.Event()
        self._log: FileLog | None = None
        if settings.folder is not None:
            count = metrics.shadow_log
            self._log = FileLog(
                "shadow",
                settings.folder,
                ("time", *_TEXT, *_REACH),
                shadow_schema,
                settings,
                lambda end, rows: count.labels(end).inc(rows),
            )
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, job: ShadowJob) -> None:
        """Hand over a request; never waits.

        Args:
            job: what was answered.
        """
        for name, share in self._settings.shares.items():
            if name == job.primary.name or random.random() >= share:
                continue
            with self._lock:
                fits = self._held + len(job.body) <= self._settings.held_bytes
                self._held += len(job.body) if fits else 0
            if not fits:
                self._count(name, "dropped")
                continue
            try:
                self._queue.put_nowait((name, job))
            except queue.Full:
                self._let_go(job)
                self._count(name, "dropped")

    def close(self) -> None:
        """Drop what waits, and stop; a shadow that hangs is left behind."""
        self._stop.set()
        self._thread.join(_LEAVE)
        if self._log is not None:
            self._log.close()

    def _let_go(self, job: ShadowJob) -> None:
        with self._lock:
            self._held -= len(job.body)

    def _count(self, name: str, end: str) -> None:
        self._metrics.shadow_requests.labels(name, end).inc()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                name, job = self._queue.get(timeout=_WAKE)
            except queue.Empty:
                continue
            while self._is_busy() and not self._stop.wait(_IDLE):
                pass
            self._let_go(job)
            if not self._stop.is_set():
                self._score(name, job)

    def _score(self, name: str, job: ShadowJob) -> None:
        """Score a request; whatever goes wrong is counted, and logged once a kind."""
        shadow, started = self._variants.all[name], time.perf_counter()
        try:
            rows = raw_rows(parse_body(job.body), shadow.columns, largest=len(job.reach), strict=False)
            reach = score_rows(shadow, rows).reach
        except RefusalError as error:  # its message holds what the client sent, which no log does
            self._fail(name, job, error.code)
            return
        except Exception as error:
            self._fail(name, job, type(error).__name__, error=True)
            return
        self._metrics.shadow_seconds.labels(name).observe(time.perf_counter() - started)
        self._note(shadow, job, reach)
        self._count(name, "scored")

    def _fail(self, name: str, job: ShadowJob, kind: str, *, error: bool = False) -> None:
        self._count(name, "failed")
        if (name, kind) not in self._told:
            self._told.add((name, kind))
            said = {"variant": name, "request_id": job.request_id, "kind": kind}
            log_line("shadow_failed", level=logging.ERROR, error=error, **said)

    def _note(self, shadow: Variant, job: ShadowJob, reach: Floats) -> None:
        """Log both scores, and measure how far apart they are where both bundles end with the same step."""
        steps, shadow_steps = job.primary.bundle.schema.step_names, shadow.bundle.schema.step_names
        if steps[-1] == shadow_steps[-1]:
            apart = float(np.abs(reach[:, -1] - job.reach[:, -1]).mean())
            self._metrics.shadow_difference.labels(shadow.name).observe(apart)
        if self._log is not None:
            self._log.add(
                {
                    "time": datetime.now(UTC),
                    "request_id": job.request_id,
                    "variant": job.primary.name,
                    "model_version": job.primary.version,
                    "shadow": shadow.name,
                    "shadow_version": shadow.version,
                    "reach": dict(zip(steps, job.reach.T.tolist(), strict=True)),
                    "shadow_reach": dict(zip(shadow_steps, reach.T.tolist(), strict=True)),
                }
            )


def shadow_schema() -> pa.Schema:
    """Return the Arrow schema of the log."""
    steps = pa.map_(pa.string(), pa.list_(pa.float32()))
    text, reach = [(name, pa.string()) for name in _TEXT], [(name, steps) for name in _REACH]
    return pa.schema([("time", pa.timestamp("us", tz="UTC")), *text, *reach])
