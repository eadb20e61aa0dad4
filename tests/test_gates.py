"""Open, dead and undecided gates, worked by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import entropy

from funnelcast.gates import (
    GateLayer,
    describe_gates,
    describe_segments,
    gate_entropy,
    gate_rows,
    open_above,
    rate_histogram,
)

# Four rows, five gates: dead, always open, open on one row of four, closed but not dead, exactly a half.
OPENINGS = np.array(
    [
        [0.0, 1.0, 0.6, 0.2, 0.5],
        [0.1, 0.75, 0.0, 0.5, 0.5],
        [0.0, 0.51, 0.0, 0.0, 0.5],
        [0.05, 1.0, 0.5, 0.1, 0.5],
    ],
    dtype=np.float32,
)
gates = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(0, 1))
kinds = st.sampled_from(["opening", "share"])


def test_a_layer_by_hand() -> None:
    found = describe_gates("layer 1", OPENINGS, "opening")
    assert (found["name"], found["gates"], found["open_above"], found["dead_up_to"]) == ("layer 1", 5, 0.5, 0.1)
    assert (found["dead"], found["always_open"]) == (1, 1)
    assert [slot["open_rate"] for slot in found["slots"]] == [0.0, 1.0, 0.25, 0.0, 0.0]
    assert [slot["dead"] for slot in found["slots"]] == [True, False, False, False, False]
    assert [slot["exact_zero"] for slot in found["slots"]] == [0.5, 0.0, 0.5, 0.25, 0.0]
    assert [slot["exact_one"] for slot in found["slots"]] == [0.0, 0.5, 0.0, 0.0, 0.0]
    assert [slot["mean"] for slot in found["slots"]] == pytest.approx([0.0375, 0.815, 0.275, 0.2, 0.5])
    assert (found["exact_zero"], found["exact_one"]) == (pytest.approx(5 / 20), pytest.approx(2 / 20))
    assert found["rate"] == pytest.approx((2 + 1 + 1 + 1) / 20)
    assert found["mean"] == pytest.approx((0.15 + 3.26 + 1.1 + 0.8 + 2.0) / 20)
    assert found["rate_histogram"]["counts"] == [0, 3, 1, 0, 0, 0]
    assert found["quantiles"]["rate"]["0.5"] == pytest.approx(0.2)
    assert found["quantiles"]["rate"]["0.95"] == pytest.approx(0.2 + 0.85 * 0.2)  # between the third row and the last
    assert found["quantiles"]["mean"]["0.5"] == pytest.approx((0.37 + 0.43) / 2)
    json.dumps(found, allow_nan=False)


def test_entropy_by_hand_and_by_scipy() -> None:
    quarter = 2 - 0.75 * np.log2(3)  # of a gate at 1/4 or 3/4, in bits
    values = np.array([[0.25, 0.5, 1.0], [0.75, 0.0, 0.0]])
    assert gate_entropy(values, "opening") == pytest.approx([(quarter + 1) / 3, quarter / 3])
    shares = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    assert gate_entropy(shares, "share") == pytest.approx([1.5 / np.log2(3), 0.0])
    assert gate_entropy(shares, "share") == pytest.approx(entropy(shares, base=3, axis=1))
    assert gate_entropy(0.5 * shares, "share") == pytest.approx(gate_entropy(shares, "share"))  # a selector's mass
    assert gate_entropy(np.ones((2, 1)), "share").tolist() == [0.0, 0.0]
    assert gate_entropy(np.zeros((1, 3)), "share").tolist() == [0.0]


@given(gates, kinds)
def test_entropy_is_between_0_and_1_and_has_no_order(values: Any, kind: Any) -> None:
    found = gate_entropy(values, kind)
    assert (found >= -1e-12).all() and (found <= 1 + 1e-9).all()
    assert gate_entropy(values[:, ::-1], kind) == pytest.approx(found)


@given(gates, kinds)
def test_every_row_is_in_one_bin_and_the_rate_is_the_mean_open_rate(values: Any, kind: Any) -> None:
    found = describe_gates("layer 1", values, kind)
    histogram = found["rate_histogram"]
    assert sum(histogram["counts"]) == len(values)
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1 == values.shape[1] + 2
    assert found["rate"] == pytest.approx(np.mean([slot["open_rate"] for slot in found["slots"]]))
    assert found["dead"] + found["always_open"] <= found["gates"]


def test_shares_are_measured_by_an_equal_share() -> None:
    values = np.array([[0.85, 0.04, 0.06, 0.05], [0.7, 0.05, 0.2, 0.05]])
    found = describe_gates("step click", values, "share")
    assert (found["open_above"], found["dead_up_to"]) == (0.25, pytest.approx(0.05))
    assert (found["dead"], found["always_open"], found["rate"]) == (2, 1, 0.25)
    assert open_above("share", 1) == open_above("share", 2) == 0.5


def test_each_possible_rate_has_a_bin_and_many_gates_share_101() -> None:
    counts = np.arange(65)
    assert rate_histogram(counts, 64)["counts"] == [1] * 65
    many = rate_histogram(np.array([0, 250, 1000]), 1000)
    assert len(many["counts"]) == 101
    assert [i for i, rows in enumerate(many["counts"]) if rows] == [0, 25, 100]
    assert gate_rows(np.array([[0.5, 0.500001]]), "opening")[0].tolist() == [1]


def test_segments_by_hand_without_empty_ones() -> None:
    found = describe_segments(OPENINGS, "opening", np.array([1, 0, 0, 1]), ["b", "a", "(others)"])
    assert [(s["value"], s["rows"]) for s in found] == [("b", 2), ("a", 2)]
    assert [s["rate"] for s in found] == pytest.approx([0.2, 0.3])
    assert found[0]["mean"] == pytest.approx((1.85 + 1.01) / 10)
    rows = gate_entropy(OPENINGS, "opening")
    assert [s["entropy"] for s in found] == pytest.approx([(rows[1] + rows[2]) / 2, (rows[0] + rows[3]) / 2])


def test_gates_that_are_no_matrix_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gates of layer 1 should be \[B, n\], received \(3,\)"):
        GateLayer("layer 1", torch.zeros(3))
