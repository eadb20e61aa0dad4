"""Figures as SVG files of their own."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from funnelcast.report.daily_figure import daily_figure
from funnelcast.report.elements import Entry
from funnelcast.report.figures import Line, line_style
from funnelcast.report.speed_figure import Speed, speed_figure
from funnelcast.report.svg_files import svg_document

SVG = "{http://www.w3.org/2000/svg}"


def daily(label: str = "rate") -> str:
    lines = [Line(0, [1, 2], [0.1, 0.12]), Line(1, [1, 2], [0.11, 0.1]), Line(2, [], [])]
    return daily_figure("day", lines, [[(0.09, 0.11), (0.1, 0.14)], [(0.1, 0.12), (0.09, 0.11)], []], label)


def speed() -> str:
    points = [Speed(0, 1000, 5e4, (4e4, 6e4)), Speed(9, 2_000_000, 9e3, (8e3, 9.5e3))]
    return speed_figure("speed", points, "rows a second")


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_daily_rates_are_in_percent_and_values_are_not() -> None:
    assert any(text.endswith(" %") for text in texts(daily()))
    assert not any(text.endswith(" %") for text in texts(daily("value a showing")))
    assert daily() == daily()
    assert "var(--s1)" in daily() and not re.search(r"#[0-9a-f]{6}", daily())


def test_speeds_are_labelled_by_the_number_of_their_series() -> None:
    assert {"1", "10"} <= set(texts(speed()))
    assert {"rows a second", "parameters"} <= set(texts(speed()))
    assert not re.search(r"#[0-9a-f]{6}", speed())


def test_a_document_holds_its_panels_titles_legend_and_colours() -> None:
    names = ["a <b> & c", *(f"a rather long name number {i}" for i in range(12))]
    legend = [Entry(name, *line_style(i)) for i, name in enumerate(names)]
    text = svg_document([("One", daily()), ("Two & three", speed())], legend, "Rates & speeds.", "a note")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    panels = root.findall(f"{SVG}svg")
    assert [float(panel.attrib["x"]) for panel in panels] == pytest.approx([24, 379.2])
    assert not any("aria-hidden" in panel.attrib for panel in panels)
    assert [root.findtext(f"{SVG}{part}") for part in ("title", "desc")] == ["One, Two & three", "Rates & speeds."]
    own = [node.text for node in root.findall(f"{SVG}text")]
    assert {"One", "Two & three", "a note", *names} <= set(own)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for node in root.findall(f"{SVG}text"):
        assert 0 < float(node.attrib["x"]) < width and 0 < float(node.attrib["y"]) < height
    lines = root.findall(f"{SVG}line")
    assert (lines[1].attrib["stroke"], lines[9].attrib["stroke-dasharray"]) == ("#d55e00", "5 2")


def test_a_document_needs_no_page() -> None:
    text = svg_document([("One", daily())], (), "Daily rates.")
    assert "var(" not in text
    assert not re.search(r'(?<!xlink:)href="', text)
    assert '<rect width="100%" height="100%" fill="#ffffff"/>' in text


def test_long_names_and_notes_stay_inside_a_narrow_document() -> None:
    legend = [Entry("n" * 300, "var(--s0)")]
    root = ElementTree.fromstring(svg_document([("t" * 300, daily())], legend, "Daily rates.", "many words " * 20))
    texts = [node.text or "" for node in root.findall(f"{SVG}text")]
    assert max(map(len, texts)) <= 55
    assert sum(text.count("many words") for text in texts) == 20
