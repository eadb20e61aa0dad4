"""What the service says of itself: Prometheus metrics and one line of JSON a request, both without feature values."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["Metrics", "is_logged", "log_line", "log_text", "log_to_stderr"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3)
_ROWS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
_SHARED = "PROMETHEUS_MULTIPROC_DIR"
_LOGGER = logging.getLogger("funnelcast.serve")


class Metrics:
    """Counters of a service; every label has few values, none of which a client chooses.

    With several workers, each writes into the folder PROMETHEUS_MULTIPROC_DIR, and any of them can tell the sums.
    """

    def __init__(self) -> None:
        own = CollectorRegistry()
        self._registry = own
        self.requests = Counter(
            "funnelcast_requests", "Answers by route and status.", ["route", "status"], registry=own
        )
        self.seconds = Histogram(
            "funnelcast_request_seconds", "From the head to the answer.", ["route"], buckets=_SECONDS, registry=own
        )
        self.rows = Histogram("funnelcast_request_rows", "Candidates of scored requests.", buckets=_ROWS, registry=own)
        self.scored = Counter("funnelcast_scored_rows", "Rows by variant.", ["variant"], registry=own)
        self.failures = Counter(
            "funnelcast_failed_scores", "Sound requests that a variant failed to score.", ["variant"], registry=own
        )
        self.shed = Counter("funnelcast_shed_requests", "Requests refused for lack of room.", registry=own)
        self.exposures = Counter("funnelcast_exposures", "Rows for the exposure log.", ["end"], registry=own)
        self.shadow_requests = Counter(
            "funnelcast_shadow_requests", "Requests for a shadow by their end.", ["variant", "end"], registry=own
        )
        self.shadow_seconds = Histogram(
            "funnelcast_shadow_seconds", "Scoring by a shadow.", ["variant"], buckets=_SECONDS, registry=own
        )
        self.shadow_difference = Histogram(
            "funnelcast_shadow_difference",
            "Mean |shadow - primary| of the last step's reach over the rows of a request.",
            ["variant"],
            buckets=_DIFFERENCES,
            registry=own,
        )
        self.shadow_log = Counter("funnelcast_shadow_log_rows", "Rows for the shadow log.", ["end"], registry=own)
        self.swaps = Counter("funnelcast_swaps", "New versions that answer.", ["variant"], registry=own)
        self.refused_swaps = Counter("funnelcast_refused_swaps", "Versions not taken.", ["variant"], registry=own)
        self.inside = Gauge(
            "funnelcast_requests_inside", "Requests being scored or waiting.", registry=own, multiprocess_mode="livesum"
        )
        self.model = Gauge(
            "funnelcast_model_info",
            "1 for every version that answers, 0 for one that did.",
            ["variant", "version"],
            registry=own,
            multiprocess_mode="livemax",
        )

    def follow(self, inside: Callable[[], int]) -> None:
        """Read the number of requests when it is asked for, where that can be.

        Args:
            inside: returns it.
        """
        self._inside = inside
        if not _is_shared():
            self.inside.set_function(inside)

    async def tell(self) -> None:
        """Write the number of requests once a second to where the other processes read it, if there are some."""
        while _is_shared():
            self.inside.set(self._inside())
            await asyncio.sleep(1.0)

    def text(self) -> bytes:
        """Write all metrics as Prometheus reads them."""
        return generate_latest(self._collected())

    def sums(self, name: str, label: str, **where: str) -> dict[str, float]:
        """Return a metric's numbers by one of its labels.

        Args:
            name: of the metric's samples, such as `funnelcast_requests_total`.
            label: that tells the numbers apart.
            where: values of other labels.
        """
        found: dict[str, float] = {}
        for family in self._collected().collect():
            for sample in family.samples:
                if sample.name == name and where.items() <= sample.labels.items():
                    key = sample.labels[label]
                    found[key] = found.get(key, 0.0) + sample.value
        return found

    def _collected(self) -> CollectorRegistry:
        if not _is_shared():
            return self._registry
        _forget_dead(Path(os.environ[_SHARED]))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


def _is_shared() -> bool:
    return _SHARED in os.environ


def _forget_dead(folder: Path) -> None:
    """Remove what holds only for processes that live, of those that do not: killed ones could not do it."""
    for path in folder.glob("gauge_live*.db"):
        number = path.stem.rpartition("_")[2]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            continue  # it lives


class _Lines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        if hasattr(record, "lines"):
            return record.getMessage()
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "said", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def is_logged(level: int) -> bool:
    """Say whether lines of a level are written.

    Args:
        level: of `logging`.
    """
    return _LOGGER.isEnabledFor(level)


def log_text(text: str) -> None:
    """Write lines that are complete.

    Args:
        text: JSON, an object a line.
    """
    record = logging.LogRecord(_LOGGER.name, logging.INFO, "", 0, text, (), None)
    record.lines = True  # it is formatted
    _LOGGER.handle(record)


def log_line(event: str, *, level: int = logging.INFO, error: bool = False, **said: Any) -> None:
    """Write a line of the log.

    Args:
        event: a word.
        level: of `logging`.
        error: whether to write the traceback of the exception that is handled.
        said: what the line says, without feature values.
    """
    if not _LOGGER.isEnabledFor(level):
        return
    # Made here, since `Logger.log` looks through the stack for a line of code that no line of ours names.
    record = logging.LogRecord(_LOGGER.name, level, "", 0, event, (), sys.exc_info() if error else None)
    record.said = said
    _LOGGER.handle(record)


def log_to_stderr() -> None:
    """Send the lines, and what uvicorn has to say, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name in (_LOGGER.name, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
