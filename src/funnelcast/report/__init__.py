"""The report: one self-contained HTML page about a comparison or a run."""

from funnelcast.report.page import write_report

__all__ = ["write_report"]
