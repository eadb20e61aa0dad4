"""What gates do, in sentences."""

from __future__ import annotations

from typing import Any

import numpy as np

from funnelcast.gates import describe_gates
from funnelcast.report.gate_words import gate_findings

MIXED = np.array([[0.0, 1.0, 0.6], [0.05, 1.0, 0.2]])
FIXED = np.array([[0.0, 1.0], [0.0, 1.0]])


def findings(*values: np.ndarray, gamma: float | None = 0.05, **more: Any) -> list[str]:
    layers = [describe_gates(f"layer {i}", z, "opening") for i, z in enumerate(values, 1)]
    return gate_findings({"gamma": gamma, "layers": layers, **more})


def test_idle_gates_are_counted_a_layer() -> None:
    assert findings(MIXED, FIXED) == [
        "At gamma 0.05 of the kept weights, 70.0% of the gates are exactly 0 or 1.",
        "layer 1: 1 dead and 1 always open of 3 gates; layer 2: 1 dead and 1 always open of 2 gates, the same on every "
        "row.",
        "Rows differ most in layer 1: the middle one opens 50% of its gates, nine in ten open 35% to 65%.",
    ]


def test_layers_that_do_not_tell_rows_apart_are_named() -> None:
    assert findings(FIXED)[-1] == "In every layer most rows open the same share of the gates, in layer 1 50%."


def test_a_model_without_gamma_and_without_idle_gates() -> None:
    assert findings(np.array([[0.2, 0.9], [0.9, 0.2]]), gamma=None)[:2] == [
        "0.0% of the gates are exactly 0 or 1.",
        "No gate is dead, and none is open on every row.",
    ]


def test_drift_has_its_words_and_what_chance_would_give() -> None:
    drift = {"layers": [{"name": "layer 1", "rate": 0.3, "rate_by_chance": 0.01, "words": "large shift",
                         "slots": [0.1, 0.02, 0.4]}]}  # fmt: skip
    assert findings(FIXED, drift=drift)[-1] == (
        "layer 1, drift of the selection rate: large shift, PSI 0.3000 (0.0100 by chance); 2 of 3 gates have moved, "
        "the farthest by 0.4000."
    )
