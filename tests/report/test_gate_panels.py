"""What gates do, as figures with the tables behind them."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from funnelcast.report.elements import Panel
from funnelcast.report.gate_panels import gate_panels
from funnelcast.report.svg_files import svg_document

from . import extras

OUTSIDE = "<b>outside & more</b>"


def panels(**changes: Any) -> dict[str, Panel]:
    found = gate_panels(extras.gates([OUTSIDE, "home"]) | changes, "gates")
    assert len({panel.name for panel in found}) == len(found)
    return {panel.name: panel for panel in found}


def cells(panel: Panel) -> list[list[str]]:
    return [[cell.text for cell in row] for row in panel.table.rows]


def test_all_that_a_record_can_show_is_drawn() -> None:
    maps = {f"gates-{way}-{colour}" for way in ("pca", "tsne") for colour in ("group", "reached")}
    layers = {f"gates-{kind}-{number}" for kind in ("rate", "slots", "segments") for number in (1, 2)} | {"gates-rates"}
    assert set(panels()) == maps | layers | {"gates-gamma", "gates-smooth-step", "gates-drift"}
    assert set(panels(gamma_curve=[], map=None, drift=None)) == layers
    few = extras.gate_map(9) | {"tsne": None}
    pca = {"gates-pca-group", "gates-pca-reached"}
    assert set(panels(gamma_curve=[], map=few, drift=None)) == layers | pca
    ids = [name for panel in panels().values() for name in re.findall(r'\bid="([^"]+)"', panel.svg)]
    assert len(ids) == len(set(ids))


def test_every_figure_has_words_and_a_table_and_becomes_a_file() -> None:
    for panel in panels(by=OUTSIDE).values():
        assert len(panel.alt) > 20
        assert panel.table.rows and all(len(row) == len(panel.table.heads) for row in panel.table.rows)
        document = svg_document([(panel.title, panel.svg)], (), panel.alt)
        assert ElementTree.fromstring(document).tag.endswith("svg")
        assert "<b>" not in document


def test_the_table_of_rates_counts_the_rows_and_leaves_out_empty_bins() -> None:
    layer = extras.gates([])["layers"][0]
    layer["rate_histogram"] = {"edges": [-0.25, 0.25, 0.75, 1.25], "counts": [30, 0, 10]}
    assert cells(panels(layers=[layer])["gates-rate-1"]) == [
        ["0 % to 25 %", "30", "75 %"],
        ["75 % to 100 %", "10", "25 %"],
    ]


def test_the_table_of_drift_counts_the_gates_that_moved() -> None:
    layer = {"name": "layer 1", "rate": 0.3, "rate_by_chance": 0.001, "words": "large shift", "slots": [0.0, 0.2, 0.05]}
    against = {"folder": "/a/b/last week", "split": "valid", "rows": 1200}
    panel = panels(drift={"against": against, "layers": [layer]})["gates-drift"]
    assert cells(panel) == [["layer 1", "0.3000", "0.0010", "large shift", "1", "0.2000"]]
    assert "Against 1,200 rows of VALID of last week." in panel.note
    assert panel.svg.count("<circle") == 3


def test_the_table_of_a_map_has_the_middle_of_every_colour() -> None:
    points = {
        "rows": 4, "variance": [0.6, 0.3], "pca": [[0.0, 1.0], [2.0, 3.0], [5.0, 5.0], [-1.0, 0.5]], "tsne": None,
        "group": ["low", "low", "high", "high"], "reached": [0, 2, 0, 0],
        "groups": [{"group": "low", "rows": 2, "rate": 0.25}, {"group": "high", "rows": 2, "rate": 0.75}],
    }  # fmt: skip
    found = panels(map=points)
    assert cells(found["gates-pca-group"]) == [
        ["low rate", "2", "1", "2", "25 %"],
        ["high rate", "2", "2", "2.75", "75 %"],
    ]
    assert cells(found["gates-pca-reached"]) == [["no step", "3", "1.33", "2.17"], ["step 2", "1", "2", "3"]]


@pytest.mark.parametrize("name", ["gates-rates", "gates-segments-1", "gates-drift"])
def test_names_in_figures_are_escaped(name: str) -> None:
    record = extras.gates([OUTSIDE])
    for layer in (*record["layers"], *record["drift"]["layers"]):
        layer["name"] = OUTSIDE
    svg = next(panel.svg for panel in gate_panels(record, "gates") if panel.name == name)
    assert "<b>" not in svg and "&lt;b&gt;" in svg
