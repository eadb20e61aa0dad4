"""The page in a browser: silent, alone, safe, and its tables can be sorted and filtered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from funnelcast.report import write_report

from .browser import CHROMIUM, Browser, browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")]

Make = Callable[..., Path]
NAMES = ["<script>alert(1)</script>", "\"quote' & \\", "x" * 300, "\u202eevil", "\u05d0\u05d1\u05d2"]
BOARD = "document.querySelector('#leaderboard table')"
COLUMN = f"[...{BOARD}.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[%d].textContent)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


def quiet(page: Browser, path: Path) -> None:
    assert page.complaints() == []
    assert page.requests() == [path.as_uri()]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "phone"), [(390, True), (1280, False)])
def test_the_page_is_silent_and_fits(chromium: Browser, everything: Path, width: int, phone: bool, dark: bool) -> None:
    chromium.show(width, 800, dark=dark, phone=phone)
    chromium.open(everything)
    quiet(chromium, everything)
    assert chromium.run("document.documentElement.scrollWidth") == width
    paper = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_hostile_names_stay_text(chromium: Browser, make_comparison: Make) -> None:
    experiments = [(name, "single_task" if i == 0 else "mmoe", 0.5 + i / 20) for i, name in enumerate(NAMES)]
    folder = make_comparison(experiments, steps=NAMES[:2], dataset=NAMES[0], rows=400, seeds=1, everything=True)
    path = write_report(folder)
    chromium.show(390, 800, phone=True)
    chromium.open(path)
    quiet(chromium, path)
    assert chromium.run("document.scripts.length") == 1
    assert chromium.run(COLUMN % 0) == NAMES
    assert chromium.run("document.documentElement.scrollWidth") == 390


def test_a_script_from_outside_does_not_run(chromium: Browser, shop: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    source = shop.read_text(encoding="utf-8")
    changed.write_text(source.replace("<footer>", "<footer><script>window.ran = true</script>"), encoding="utf-8")
    chromium.open(changed)
    assert chromium.run("window.ran === undefined")
    assert any("Content Security Policy" in line for line in chromium.complaints())


def test_a_click_on_a_head_sorts(chromium: Browser, make_comparison: Make) -> None:
    skills = (0.6, 0.8, 0.4, 0.7)
    folder = make_comparison([(f"m{i}", "mmoe", skill) for i, skill in enumerate(skills)], rows=2000, seeds=1)
    chromium.open(write_report(folder))
    assert chromium.run(COLUMN % 0) == ["m0", "m1", "m2", "m3"]
    click = f"{BOARD}.tHead.rows[0].cells[%d].querySelector('button').click()"
    chromium.run(click % 1)
    values = [float(text) for text in chromium.run(COLUMN % 1)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4
    assert chromium.run(f"{BOARD}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "descending"
    chromium.run(click % 1)
    assert [float(text) for text in chromium.run(COLUMN % 1)] == sorted(values)
    chromium.run(click % 0)
    assert chromium.run(COLUMN % 0) == ["m3", "m2", "m1", "m0"]
    assert chromium.run(f"{BOARD}.tHead.rows[0].cells[1].hasAttribute('aria-sort')") is False


def test_units_and_signs_are_numbers_and_undefined_values_stay_last(chromium: Browser, shop: Path) -> None:
    chromium.open(shop)
    cells = ["1.5 M", "undefined", "512", "-", "85.0 k", "+2.50 %", "-3.10 %", "1,234", "< 0.0001"]
    chromium.run(
        "const body = " + BOARD + ".tBodies[0], model = body.rows[0];"
        f"body.replaceChildren(...{cells!r}.map(text => {{"
        "const row = model.cloneNode(true); row.cells[1].textContent = text; return row; }))"
    )
    chromium.run(f"{BOARD}.tHead.rows[0].cells[1].querySelector('button').click()")
    ordered = ["1.5 M", "85.0 k", "1,234", "512", "+2.50 %", "< 0.0001", "-3.10 %"]
    assert chromium.run(COLUMN % 1) == [*ordered, "undefined", "-"]


def test_a_field_filters_by_name(chromium: Browser, make_comparison: Make) -> None:
    names = ["esmm", "escm2_ips", "ESCM2_dr", "ple", "mmoe"]
    folder = make_comparison([(name, "mmoe", 0.5 + i / 20) for i, name in enumerate(names)], rows=500, seeds=1)
    chromium.open(write_report(folder))
    field = "document.querySelector('#leaderboard input[type=search]')"
    chromium.run(f"{field}.value = ' escm2'; {field}.dispatchEvent(new Event('input'))")
    assert chromium.run(COLUMN % 0) == ["escm2_ips", "ESCM2_dr"]
    chromium.run(f"{field}.value = ''; {field}.dispatchEvent(new Event('input'))")
    assert chromium.run(COLUMN % 0) == names


def test_a_click_in_a_legend_hides_a_line_and_shows_it_again(chromium: Browser, shop: Path) -> None:
    chromium.open(shop)
    visible = (
        "[...document.querySelectorAll('#step-2 .group:first-of-type figure:first-child svg path')]"
        ".filter(path => path.checkVisibility() && path.getAttribute('style')?.includes('var(--s%d)')).length"
    )
    button = "document.querySelectorAll('#step-2 .legend button')[1]"
    assert [chromium.run(visible % series) for series in (0, 1)] == [1, 1]
    assert chromium.run(f"{button}.textContent.trim()") == "mmoe"
    chromium.run(f"{button}.click()")
    assert [chromium.run(visible % series) for series in (0, 1)] == [1, 0]
    assert chromium.run(f"{button}.getAttribute('aria-pressed')") == "false"
    # Figures of other groups have legends of their own.
    others = "document.querySelectorAll('#step-3 .off, #step-2 .group:not(:first-of-type) .off').length"
    assert chromium.run(others) == 0
    chromium.run(f"{button}.click()")
    assert [chromium.run(visible % series) for series in (0, 1)] == [1, 1]
    quiet(chromium, shop)


def test_it_prints(chromium: Browser, everything: Path) -> None:
    chromium.show(1280, 800)
    chromium.open(everything)
    pdf = chromium.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
