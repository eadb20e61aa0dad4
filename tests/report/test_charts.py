"""Charts written by hand: valid, to scale, and safe against any name."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.report.charts import Bar, Dots, Stack, bar_chart, dot_chart, funnel_chart, label, stack_chart


def rects(svg: str) -> list[tuple[float, float]]:
    """Left ends and widths of the bars."""
    found = re.findall(r'<rect x="([\d.-]+)" y="[\d.]+" width="([\d.]+)"', svg)
    return [(float(x), float(width)) for x, width in found]


def test_bars_begin_at_zero_and_are_to_scale() -> None:
    # From -1 to 3 on 180 units between 118 and 298: zero at 163.
    svg = bar_chart([Bar("a", 3.0, "+3"), Bar("b", -1.0, "-1"), Bar("c", 1.0, "+1", 0.5)])
    assert rects(svg) == [(163.0, 135.0), (118.0, 45.0), (163.0, 45.0)]
    assert '<line x1="185.5" y1="50.0" x2="230.5" y2="50.0" stroke="var(--ink)"' in svg


def test_dots_are_to_scale_and_stay_inside() -> None:
    row = Dots("a", ((0.6, "var(--s0)"), (0.9, "var(--s1)")), "x", (0.7, "var(--s2)"), (0.5, 0.75))
    svg = dot_chart([row], 0.6, 0.8, ("0.6", "0.8"), rule=0.7)
    assert re.findall(r'<circle cx="([\d.]+)"', svg) == ["118.0", "298.0"]
    assert '<line x1="118.0" y1="28.0" x2="253.0" y2="28.0" stroke="var(--soft)" stroke-width="3"' in svg
    assert svg.count('x1="208.0"') == 2  # the mean and the rule


def test_equal_ends_do_not_divide_by_zero() -> None:
    assert 'cx="208.0"' in dot_chart([Dots("a", ((0.7, "var(--s0)"),))], 0.7, 0.7, ("", ""))
    assert rects(bar_chart([Bar("a", 0.0, "0")])) == [(208.0, 0.5)]
    assert rects(stack_chart([Stack("a", ((0.0, "var(--s0)"),))])) == [(118.0, 0.0)]


def test_parts_of_a_whole_follow_each_other() -> None:
    svg = stack_chart([Stack("a", ((1.0, "var(--s0)"), (3.0, "var(--s1)"))), Stack("b", ((2.0, "var(--s0)"),))])
    assert rects(svg) == [(118.0, 45.0), (163.0, 135.0), (118.0, 90.0)]


def test_a_funnel_is_as_wide_as_its_shares() -> None:
    svg = funnel_chart([("all", 1.0, "10", ()), ("click", 0.25, "3", ("reach 25 %",))])
    assert rects(svg) == [(0.0, 360.0), (135.0, 90.0)]
    assert "reach 25 %" in svg


@given(st.text(max_size=60))
def test_any_name_gives_valid_xml_that_holds_its_beginning(name: str) -> None:
    for svg in (
        bar_chart([Bar(name, 1.0, name)] if name.isprintable() else [Bar(name, 1.0, "1")]),
        funnel_chart([(name, 0.5, "1", ())]),
    ):
        texts = [node.text or "" for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]
        shown = " ".join(name.split())
        if shown.isprintable() and len(shown) <= 18:
            assert shown in texts


@pytest.mark.parametrize(
    ("name", "expected"), [("a\x00b\x1b", "a\ufffdb\ufffd"), ("x" * 19, "x" * 17 + "…"), ("'\"&", "&#x27;&quot;&amp;")]
)
def test_labels(name: str, expected: str) -> None:
    assert label(name) == expected
