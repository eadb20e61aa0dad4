"""Figures: valid, repeatable SVG that holds the page's colours and nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
import pytest

from funnelcast.report.figures import (
    Line,
    line_style,
    loss_figure,
    ne_figure,
    pr_figure,
    reliability_figure,
    roc_figure,
    speed_figure,
)


def roc() -> str:
    return roc_figure("roc-0", [Line(i, [0.0, 0.25, 1.0], [0.0, 0.7, 1.0]) for i in range(10)])


def rare() -> str:
    line = Line(0, [0.0001, 0.001, 0.01], [0.0, 0.002, 0.009])
    return reliability_figure("rel", [line], [[(0.0, 0.0004), (0.001, 0.003), (0.005, 0.02)]])


def common() -> str:
    return reliability_figure("rel", [Line(1, [0.1, 0.6], [0.0, 0.5])], [[(0.0, 0.1), (0.4, 0.6)]])


def entropy() -> str:
    return ne_figure("ne", [Line(0, [100, 5000], [0.93, 0.91]), Line(1, [], [])])


def loss() -> str:
    return loss_figure("loss", [Line(2, [100, 200, 300], [0.5, 0.4, 0.39])])


def precision() -> str:
    return pr_figure("pr", [Line(0, [0.1, 0.5, 1.0], [0.6, 0.4, 0.2])], 0.15)


def speed() -> str:
    return speed_figure("speed", [(0, 900.0, 0.7), (None, 81_000.0, 0.72)], "reach AUC")


FIGURES = pytest.mark.parametrize("make", [roc, rare, common, entropy, loss, precision, speed])


@FIGURES
def test_a_figure_is_one_self_contained_element(make: Callable[[], str]) -> None:
    svg = make()
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.attrib["aria-hidden"] == "true"
    assert "width" not in root.attrib
    assert "http" not in svg
    assert "xlink" not in svg
    assert "DejaVu" not in svg


@FIGURES
def test_all_colours_come_from_the_page(make: Callable[[], str]) -> None:
    svg = make()
    assert "var(--ink)" in svg
    assert "var(--rule)" in svg
    assert re.search(r"var\(--s\d\)", svg)
    assert not re.search(r"#[0-9a-f]{6}", svg)


@FIGURES
def test_the_same_numbers_give_the_same_bytes(make: Callable[[], str]) -> None:
    assert make() == make()


@FIGURES
def test_ids_carry_the_name_and_references_resolve(make: Callable[[], str]) -> None:
    svg = make()
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(re.match(r"(roc-0|rel|ne|loss|pr|speed)-", found) for found in ids)
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
    assert references
    assert all((first or second) in ids for first, second in references)


def test_ten_experiments_have_eight_colours() -> None:
    svg = roc()
    assert svg.count("stroke:var(--s1)") == 2
    assert svg.count("stroke:var(--s7)") == 1
    assert svg.count("stroke-dasharray") == 2  # the ninth and the tenth are dashed
    assert len({line_style(i) for i in range(24)}) == 24


def test_a_dashed_line_and_a_grey_one() -> None:
    svg = reliability_figure("rel", [Line(None, [0.1, 0.4], [0.2, 0.5], dashed=True)], [[]])
    assert "stroke-dasharray" in svg
    assert "stroke:var(--soft)" in svg


def test_precision_of_few_rows_does_not_press_the_rest_to_the_floor() -> None:
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", pr_figure("pr", [Line(0, [0.001, 0.5], [1.0, 0.04])], 0.01))
    assert "4 %" in texts
    assert "100 %" not in texts


def test_points_on_a_straight_line_are_left_out_and_those_of_a_bend_are_kept() -> None:
    flat = roc_figure("roc-0", [Line(0, [i / 500 for i in range(501)], [i / 500 for i in range(501)])])
    bent = roc_figure("roc-0", [Line(0, [i / 500 for i in range(501)], [(i / 500) ** 0.5 for i in range(501)])])
    drawn = [max(re.findall(r' d="([^"]*)"', svg), key=len).count("L") for svg in (flat, bent)]
    assert drawn[0] < 5
    assert 12 < drawn[1] < 200


def test_small_rates_have_logarithmic_axes_in_percent() -> None:
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", rare())
    assert "0.01 %" in texts
    assert "1 %" in texts
    assert not any("$" in text or "^" in text for text in texts)
    assert "0 %" in re.findall(r"<text[^>]*>([^<]*)</text>", common())


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    roc()
    assert dict(matplotlib.rcParams) == before


def test_the_settings_of_matplotlib_do_not_reach_a_figure() -> None:
    expected = roc()
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9.0, "axes.grid.axis": "x"}):
        assert roc() == expected


def test_pyplot_and_its_global_figures_are_not_used() -> None:
    code = "import sys, funnelcast.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
