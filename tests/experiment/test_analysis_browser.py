"""The page of an experiment in a browser: silent, alone, and narrow enough for a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.analysis_page import write_analysis
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files
from funnelcast.experiment.looks import Rules

from ..report.browser import CHROMIUM, Browser, browser
from .logs_on_disk import World

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("names", [("control", "treatment"), ("<script>window.ran = 1</script>", "x" * 200)])
def test_the_page_is_silent_and_fits(chromium: Browser, tmp_path: Path, names: tuple[str, str]) -> None:
    exposures, outcomes, _ = World(users=400, names=names).write(tmp_path)
    files = Files((exposures,), (outcomes,), threads=1)
    write_analysis(analyse(files, Split({}), Attribution(), Rules()), tmp_path)
    path = tmp_path / "ab.html"
    chromium.show(390, 800, phone=True)
    chromium.open(path)
    assert chromium.complaints() == []
    assert chromium.requests() == [path.as_uri()]
    assert chromium.run("window.ran === undefined && document.scripts.length") == 1
    assert chromium.run("document.documentElement.scrollWidth") == 390
    assert chromium.run("document.querySelectorAll('figure svg').length") >= 5
