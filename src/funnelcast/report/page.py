"""Reads a folder, makes its sections and writes its page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from funnelcast.files import write_bytes
from funnelcast.report.colours import css_colours
from funnelcast.report.decomposition import decomposition_section
from funnelcast.report.elements import Section, isolate
from funnelcast.report.explanations import importance_section, slices_section
from funnelcast.report.origin import efficiency_section, origin_section
from funnelcast.report.overview import funnel_section, leaderboard_section, verdict_section
from funnelcast.report.selectors import selectors_section
from funnelcast.report.source import Source, read_source
from funnelcast.report.steps import step_section
from funnelcast.report.svg_files import write_figures
from funnelcast.report.training import training_section

__all__ = ["write_report"]


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
    """Fill the template; the page allows its own script by checksum and no other."""
    environment = Environment(
        loader=PackageLoader("funnelcast.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, name)[0] for name in ("style.css", "tables.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    board = source.board
    dataset, count = isolate(board["dataset"]), len(board["rows"])
    run = source.runs[0]
    title = f"{dataset}: comparison of {count} experiment{'s' if count > 1 else ''}"
    return environment.get_template("template.html").render(
        title=f"{dataset}: {isolate(run.experiment)}, seed {run.report['seed']}" if source.single else title,
        source=source,
        sections=sections,
        light=css_colours("light"),
        dark=css_colours("dark"),
        style=style,
        script=script,
        script_digest=digest,
    )
