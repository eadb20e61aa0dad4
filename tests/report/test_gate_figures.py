"""Figures of gates: valid, repeatable SVG with the page's colours, and nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from funnelcast.gates import describe_gates
from funnelcast.report.gate_figures import (
    gamma_figure,
    map_figure,
    quarters,
    rate_figure,
    slots_figure,
    smooth_step_figure,
)

OUTSIDE = "<b>outside & more</b>"
CURVE = [{"step": step, "gamma": max(10 - step / 40, 0.05)} for step in range(0, 801, 50)]


def layer(gates: int = 12, rows: int = 40, name: str = OUTSIDE) -> dict[str, Any]:
    z = np.random.default_rng(0).random((rows, gates))
    z[:, 0], z[:, 1] = 0.0, 1.0
    return describe_gates(name, z, "opening")


def points(rows: int = 30) -> dict[str, Any]:
    draw = np.random.default_rng(1)
    places = draw.normal(size=(rows, 2)).tolist()
    groups = [("low", "middle", "high")[i % 3] for i in range(rows)]
    return {
        "rows": rows, "variance": [0.61, 0.2], "pca": places, "tsne": places, "group": groups,
        "reached": [i % 4 for i in range(rows)],
    }  # fmt: skip


MAKERS: list[Callable[[], str]] = [
    partial(gamma_figure, "gates", CURVE),
    partial(smooth_step_figure, "gates", CURVE),
    partial(rate_figure, "gates", layer()),
    partial(slots_figure, "gates", layer()),
    partial(map_figure, "gates", points(), "pca", "group"),
    partial(map_figure, "gates", points(), "tsne", "reached"),
]
FIGURES = pytest.mark.parametrize("make", MAKERS)


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@FIGURES
def test_a_figure_is_one_element_in_the_pages_colours(make: Callable[[], str]) -> None:
    svg = make()
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg" and root.attrib["aria-hidden"] == "true"
    assert "http" not in svg and "xlink" not in svg
    assert re.search(r"var\(--s\d\)", svg) and not re.search(r"#[0-9a-f]{6}", svg)
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids)) and all(found.startswith("gates-") for found in ids)
    assert make() == svg


@FIGURES
def test_nothing_but_labels_of_our_own_is_in_a_figure(make: Callable[[], str]) -> None:
    svg = make()
    assert "outside" not in svg
    assert len(texts(svg)) >= 3  # labels of both axes and what they count


def test_quarters_read_the_curve_and_join_equal_neighbours() -> None:
    # 800 steps; gamma reaches its floor at 398.
    assert quarters(CURVE) == [("start", 10.0), ("1/4", 5.0), ("1/2 to end", 0.05)]
    assert quarters([{"step": 0, "gamma": 2.0}, {"step": 7, "gamma": 2.0}]) == [("start to end", 2.0)]
    falling = [{"step": step, "gamma": 9.0 - step} for step in range(9)]
    assert quarters(falling) == [("start", 9.0), ("1/4", 7.0), ("1/2", 5.0), ("3/4", 3.0), ("end", 1.0)]


def test_the_gate_function_is_drawn_once_a_width() -> None:
    svg = smooth_step_figure("gates", CURVE)
    assert [text for text in texts(svg) if ":" in text] == ["start: 10", "1/4: 5", "1/2 to end: 0.05"]


def test_dead_and_always_open_gates_are_told_apart() -> None:
    found = texts(slots_figure("gates", layer()))
    assert {"open on every row", "open on some", "dead"} <= set(found)
    some = describe_gates("layer 1", np.array([[0.9, 0.2], [0.2, 0.9]]), "opening")
    assert not {"open on every row", "dead"} & set(texts(slots_figure("gates", some)))


@pytest.mark.parametrize("values", [np.full((5, 1), 1.0), np.zeros((5, 3)), np.full((1, 2), 0.7)])
def test_gates_that_all_do_the_same_are_drawn(values: np.ndarray) -> None:
    same = describe_gates("layer 1", values, "opening")
    for draw in (rate_figure, slots_figure):
        assert ElementTree.fromstring(draw("gates", same)).tag.endswith("svg")


def test_the_map_names_groups_and_steps_and_takes_many_steps() -> None:
    assert {"low rate", "middle rate", "high rate"} <= set(texts(map_figure("gates", points(), "pca", "group")))
    assert {"no step", "step 1", "step 3"} <= set(texts(map_figure("gates", points(), "pca", "reached")))
    assert {"component 1, 61% of variance"} <= set(texts(map_figure("gates", points(), "pca", "group")))
    many = points() | {"reached": [i % 12 for i in range(30)]}
    assert {"no step", "step 11"} <= set(texts(map_figure("gates", many, "tsne", "reached")))
    two = points() | {"group": ["low", "high"] * 15}
    assert "middle rate" not in texts(map_figure("gates", two, "pca", "group"))


def test_a_map_of_2000_rows_is_small() -> None:
    assert len(map_figure("gates", points(2000), "tsne", "reached")) < 100_000
