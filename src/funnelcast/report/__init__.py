"""The report: one self-contained HTML page about a comparison, a run or an A/B test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funnelcast.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """Import `write_report` at its first use: a page of an A/B test is drawn where torch is not installed."""
    if name not in __all__:
        raise AttributeError(f"module 'funnelcast.report' has no attribute '{name}'")
    from funnelcast.report.page import write_report

    return write_report
