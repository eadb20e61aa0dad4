"""Runs on disk: find them, describe them, compare two of them. Reads JSON files alone, so it needs no torch."""

from funnelcast.catalog.differences import compare_configurations, compare_metrics, flatten, metrics_of
from funnelcast.catalog.listing import check_files, find_runs
from funnelcast.catalog.records import ReportRecord, RunRecord, read_manifest, read_report, read_run

__all__ = [
    "ReportRecord",
    "RunRecord",
    "check_files",
    "compare_configurations",
    "compare_metrics",
    "find_runs",
    "flatten",
    "metrics_of",
    "read_manifest",
    "read_report",
    "read_run",
]
