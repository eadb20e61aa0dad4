"""The exposure log of a service: who was answered by which variant."""

from __future__ import annotations

from functools import partial

from funnelcast.experiment.exposure import exposure_columns, exposure_schema
from funnelcast.serving.http.file_log import FileLog
from funnelcast.serving.http.measure import Metrics
from funnelcast.serving.http.settings import ExposureSettings

__all__ = ["open_exposures"]


def open_exposures(settings: ExposureSettings, metrics: Metrics) -> FileLog | None:
    """Open the log, if there should be one.

    Args:
        settings: of the log.
        metrics: count its rows by their end.

    Raises:
        OSError: the folder cannot be made.
    """
    if settings.folder is None:
        return None
    optional = ["latency_ms", "error", *(["scores"] if settings.scores else [])]
    return FileLog(
        "exposures",
        settings.folder,
        [column.name for column in exposure_columns(*optional)],
        partial(exposure_schema, *optional),
        settings,
        lambda end, rows: metrics.exposures.labels(end).inc(rows),
    )
