"""Reads a folder, makes its sections and writes its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from funnelcast.files import write_bytes
from funnelcast.report.decomposition import decomposition_section
from funnelcast.report.elements import Section, isolate
from funnelcast.report.explanations import importance_section, slices_section
from funnelcast.report.origin import efficiency_section, origin_section
from funnelcast.report.overview import funnel_section, leaderboard_section, verdict_section
from funnelcast.report.render import render_page
from funnelcast.report.selectors import selectors_section
from funnelcast.report.source import Source, read_source
from funnelcast.report.steps import step_section
from funnelcast.report.svg_files import write_figures
from funnelcast.report.training import training_section

__all__ = ["write_report"]

METRICS = (
    "Normalised entropy: log-loss over the entropy of the base rate of the very rows. PCOC: predicted over "
    "observed conversions, best at 1. ECE: expected calibration error over 20 bins of equal mass. GAUC: AUC "
    "within users, weighted by rows. Rising share: rows whose reach exceeds that of the former step. A metric "
    "without a value is left out and never counted as a number."
)


def write_report(folder: Path, figures: Path | None = None) -> Path:
    """Write the report of a comparison or of a run as one self-contained HTML page.

    The page needs no network; every name in it is escaped. Its one script sorts and filters tables, and nothing
    depends on it.

    Args:
        folder: a comparison's folder with `leaderboard.json` and `runs/*/{report,curves,history}.json`, of which the
            runs on the leaderboard are shown; or a run's folder with these three files. What other commands have left
            there (calibration, importance, slices, ...) gets a section of its own.
        figures: a folder that gets every figure as an SVG file; None writes none.

    Returns:
        The path of `report.html` in the folder.

    Raises:
        ArtifactError: a file is missing, damaged or of an unknown format, or a run of the leaderboard has no folder.
    """
    source = read_source(folder)
    sections = _sections(source)
    page = _render(source, sections)
    if figures is not None:
        write_figures([panel for section in sections for panel in section.panels], figures)
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path


def _sections(source: Source) -> list[Section]:
    """Make the sections in order, without those that have nothing to show."""
    found = [
        verdict_section(source),
        funnel_section(source),
        leaderboard_section(source),
        *(step_section(source, i) for i in range(len(source.steps))),
        training_section(source),
        slices_section(source),
        importance_section(source),
        decomposition_section(source),
        selectors_section(source),
        efficiency_section(source),
        origin_section(source),
    ]
    return [section for section in found if section is not None]


def _render(source: Source, sections: Sequence[Section]) -> str:
    """Say in the header what was measured, and in the footer what the metrics are."""
    board, run = source.board, source.runs[0]
    dataset, count = isolate(board["dataset"]), len(board["rows"])
    title = f"{dataset}: comparison of {count} experiment{'s' if count > 1 else ''}"
    if source.single:
        title, size = f"{dataset}: {isolate(run.experiment)}, seed {run.report['seed']}", "one run"
    else:
        seeds = ", ".join(map(str, board["seeds"]))
        size = f"seeds {seeds}. Numbers are means over seeds ± sample standard deviation"
    return render_page(title, f"{board['split'].upper()}, {board['row_count']:,} rows; {size}.", sections, METRICS)
