"""Which step loses the customer: shares and counterfactuals by hand, and laws that hold for any funnel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from funnelcast.decomposition import decompose, decomposition
from funnelcast.errors import ConfigError
from funnelcast.scores import Scores
from funnelcast.segments import Column, Segment, Segmentation

STEPS = ("click", "buy")


def test_two_steps_by_hand() -> None:
    # p_S = 0.25 * 0.5 = 0.125 on the first row, 0.5 * 0.5 = 0.25 on the second, 1 * 0.125 on the other two.
    c = np.array([[0.25, 0.5], [0.5, 0.5], [1.0, 0.125], [1.0, 0.125]])
    record = decompose(np.log(c), np.ones(4), STEPS)
    assert record["expected_per_1000"] == pytest.approx(1000 * (0.125 + 0.25 + 0.125 + 0.125) / 4)
    click, buy = record["steps"]
    # In units of log 2: click 2 + 1 + 0 + 0, buy 1 + 1 + 3 + 3.
    assert (click["share"], buy["share"]) == pytest.approx((3 / 11, 8 / 11))
    assert (click["loss"], buy["loss"]) == pytest.approx((3 * np.log(2) / 4, 8 * np.log(2) / 4))
    assert (click["mean_transition"], buy["mean_transition"]) == pytest.approx((2.75 / 4, 1.25 / 4))
    assert click["fixed_per_1000"] == pytest.approx(1000 * (0.5 + 0.5 + 0.25) / 4 - 156.25)
    assert buy["fixed_per_1000"] == pytest.approx(1000 * 2.75 / 4 - 156.25)
    # Three quarters of the rows have a click of 1 or less and a buy of 0.5 or less.
    assert (click["best_quartile"], buy["best_quartile"]) == pytest.approx((1.0, 0.5))
    assert click["raised_per_1000"] == pytest.approx(click["fixed_per_1000"])
    assert buy["raised_per_1000"] == pytest.approx(1000 * (0.125 + 0.25 + 0.5 + 0.5) / 4 - 156.25)


def test_a_weight_of_two_is_the_row_twice_and_a_weight_of_zero_no_row() -> None:
    log_c = np.log(np.array([[0.25, 0.5], [0.5, 0.75], [0.9, 0.1]]))
    weighted = decompose(log_c, np.array([2.0, 1.0, 0.0]), STEPS)
    repeated = decompose(log_c[[0, 0, 1]], np.ones(3), STEPS)
    for one, other in zip(weighted["steps"], repeated["steps"], strict=True):
        assert {k: v for k, v in one.items() if k != "name"} == pytest.approx(
            {k: v for k, v in other.items() if k != "name"}
        )


@given(
    arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=st.floats(-30.0, 0.0, width=32)),
    st.integers(0, 1000),
)
def test_shares_add_up_and_a_better_step_never_loses(log_c: Any, seed: int) -> None:
    weight = np.random.default_rng(seed).uniform(0.1, 3.0, len(log_c))
    record = decompose(log_c, weight, [f"step {k}" for k in range(log_c.shape[1])])
    shares = [step["share"] for step in record["steps"]]
    if log_c.any():
        assert sum(shares) == pytest.approx(1.0) and min(shares) >= 0
    else:
        assert shares == [None] * len(shares)
    for step in record["steps"]:
        assert 0.0 <= step["raised_per_1000"] <= step["fixed_per_1000"] * (1 + 1e-12)
        assert record["expected_per_1000"] + step["fixed_per_1000"] <= 1000 * (1 + 1e-9)
        assert 0.0 <= step["best_quartile"] <= 1.0


def test_one_step_fixed_is_everyone() -> None:
    record = decompose(np.log(np.array([[0.25], [0.5]])), np.ones(2), ["click"])
    assert record["steps"][0]["share"] == 1.0
    assert record["expected_per_1000"] + record["steps"][0]["fixed_per_1000"] == pytest.approx(1000)


def make_scores(c: list[list[float]], bought: list[int], known: list[int] | None = None) -> Scores:
    transition = np.array(c, dtype=np.float32)
    reach = np.cumprod(transition, axis=1)
    with np.errstate(divide="ignore"):
        logs = (np.log(reach), np.log1p(-reach), np.log(transition), np.log1p(-transition))
    labels = np.stack([np.ones(len(c)), np.array(bought)], axis=1).astype(bool)
    observed = np.stack([np.ones(len(c)), np.ones(len(c)) if known is None else np.array(known)], axis=1).astype(bool)
    return Scores(STEPS, *logs, labels, observed, np.ones(len(c), dtype=np.float32))


def test_segments_are_decomposed_on_their_own_rows() -> None:
    scores = make_scores([[0.5, 0.25], [0.25, 0.5], [0.5, 0.5]], [1, 0, 1], [1, 1, 0])
    tab = Segmentation(
        Column("tab", "field", "tab"), True, (Segment("a", np.array([0])), Segment("b", np.array([1, 2])))
    )
    record = decomposition(scores, [tab])
    assert (record["overall"]["value"], record["overall"]["rows"], record["rows_off"]) == ("all rows", 3, 0.0)
    assert record["overall"]["observed_per_1000"] == pytest.approx(500)  # of the two rows with a known label
    (column,) = record["columns"]
    assert (column["column"], column["kind"], column["overlapping"]) == ("tab", "field", True)
    a, b = column["segments"]
    assert (a["value"], a["rows"], b["rows"], a["observed_per_1000"]) == ("a", 1, 2, 1000.0)
    assert [step["share"] for step in a["steps"]] == pytest.approx([1 / 3, 2 / 3])
    assert [step["share"] for step in b["steps"]] == pytest.approx([3 / 5, 2 / 5])
    assert b["expected_per_1000"] == pytest.approx(1000 * (0.125 + 0.25) / 2)


def test_rows_of_marginal_heads_that_rise_are_counted() -> None:
    scores = make_scores([[0.5, 0.25], [0.25, 0.5]], [0, 0])
    raised = scores.log_reach.copy()
    raised[1, 1] = np.log(0.3)  # above its click of 0.25
    assert decomposition(replace(scores, log_reach=raised))["rows_off"] == 0.5


def test_a_graph_is_refused_and_rows_without_weight_say_so() -> None:
    scores = make_scores([[0.5, 0.25]], [0])
    with pytest.raises(ConfigError, match="should get a chain of steps, received a graph"):
        decomposition(replace(scores, scope=scores.labels))
    record = decomposition(replace(scores, weight=np.zeros(1, dtype=np.float32)))
    assert record["overall"] == {
        "value": "all rows",
        "rows": 1,
        "observed_per_1000": None,
        "expected_per_1000": None,
        "expected_per_1000_reason": "no rows of weight > 0",
        "steps": [],
    }
