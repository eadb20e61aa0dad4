"""The page of an experiment that runs, made in a process of its own: JSON on stdin becomes HTML on stdout."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from funnelcast.errors import DataError
from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.analysis_report import FOOTER, analysis_sections, watch_sections
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files
from funnelcast.experiment.looks import Rules
from funnelcast.experiment.watch import watch
from funnelcast.report.elements import Group, Section, Table, isolate
from funnelcast.report.render import render_page

__all__ = ["live_html", "main"]

Record = Mapping[str, Any]
_LOWEST = 19  # of nice: whoever scores goes first


def live_html(asked: Record) -> str:
    """Write the page.

    Args:
        asked: `experiment`, `shares` (variant -> share), `since` (ISO time or null), `exposures` and `outcomes`
            (patterns, the second or null), `base`, `window_hours`, `per`, `alpha`, `planned_lift`, `memory`, `now` (ISO
            time), `age_seconds`, and `live`: `variants` (rows of variant, version, share, rows and failures) and
            `requests` and `exposures`, both a mapping of what became of them to how many.

    Raises:
        ConfigError: an option is out of range.
    """
    since = f", users who came after {_minute(asked['since'])}" if asked["since"] is not None else ""
    meta = f"As of {_minute(asked['now'])}{since}. Made anew after {asked['age_seconds']:g} s at the earliest."
    sections = [*_experiment(asked), _live_section(asked["live"])]
    return render_page(isolate(asked["experiment"]), meta, sections, FOOTER)


def _experiment(asked: Record) -> list[Section]:
    """Analyse what the log has, or say why there is nothing to analyse."""
    shares = {name: share for name, share in asked["shares"].items() if share > 0}
    if len(shares) < 2:
        return [_nothing(f"All users get {isolate(next(iter(shares)))}; there is nothing to compare.")]
    if not glob.glob(asked["exposures"]):  # noqa: PTH207
        return [_nothing("No exposures have been written yet; a file of them appears when it is full or old enough.")]
    since = datetime.fromisoformat(asked["since"]) if asked["since"] is not None else None
    split = Split(shares, asked["base"], asked["experiment"], known=True, since=since)
    outcomes = (asked["outcomes"],) if asked["outcomes"] is not None else ()
    files = Files((asked["exposures"],), outcomes, memory_limit=asked["memory"], threads=1)
    try:
        if not outcomes or not glob.glob(outcomes[0]):  # noqa: PTH207
            return watch_sections(watch(files, split))
        window = timedelta(hours=asked["window_hours"]) if asked["window_hours"] is not None else None
        rules = Rules(asked["alpha"], asked["planned_lift"], asked["per"])
        return analysis_sections(analyse(files, split, Attribution((), "auto", window), rules))
    except DataError as error:  # a log that has too little yet, or is damaged: the page says which
        folder = os.path.dirname(asked["exposures"])  # noqa: PTH120
        return [_nothing(str(error).replace(f"{folder}/", ""))]


def _nothing(text: str) -> Section:
    return Section("verdict", "So far", "So far", words=(("no analysis", text),))


def _live_section(live: Record) -> Section:
    """Show what the service counted since it started, users or not."""
    heads = ["variant", "version that answers", "share", "rows scored", "failures"]
    rows = [
        [one["variant"], one["version"], one["share"], f"{one['rows']:,.0f}", f"{one['failures']:,.0f}"]
        for one in live["variants"]
    ]
    counts = [[f"answers with {status}", f"{count:,.0f}"] for status, count in sorted(live["requests"].items())]
    counts += [[f"exposures {end}", f"{count:,.0f}"] for end, count in sorted(live["exposures"].items())]
    tables = (Table.of_text(heads, rows), Table.of_text(["requests for scores", "number"], counts))
    note = "Counted by the service itself since its start, requests without a user among them."
    return Section("live", "The service", "Service now", note, groups=(Group(tables=tables),))


def _minute(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")


def main() -> None:
    """Read what is asked, and write the page."""
    os.nice(_LOWEST)
    sys.stdout.buffer.write(live_html(json.load(sys.stdin)).encode())


if __name__ == "__main__":
    main()
