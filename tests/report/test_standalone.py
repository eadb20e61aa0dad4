"""Figures as documents of their own."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from funnelcast.report.daily_figure import daily_figure
from funnelcast.report.figures import Line
from funnelcast.report.speed_figure import Speed, speed_figure
from funnelcast.report.standalone import standalone_svg

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
    text = standalone_svg([("One", daily()), ("Two & three", speed())], names, "a note")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert [float(panel.attrib["x"]) for panel in root.findall(f"{SVG}svg")] == [24, 379]
    own = [node.text for node in root.findall(f"{SVG}text")]
    assert {"One", "Two & three", "a note", *names} <= set(own)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for node in root.findall(f"{SVG}text"):
        assert 0 < float(node.attrib["x"]) < width and 0 < float(node.attrib["y"]) < height
    variables = set(re.findall(r"var\((--\w+)\)", text))
    assert all(f"{name}:" in text for name in variables)
    assert root.findall(f"{SVG}line")[9].attrib["stroke-dasharray"] == "5 2"
