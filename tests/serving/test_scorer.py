"""From a model's outputs to scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from funnelcast.calibration import Calibration, StepMap
from funnelcast.errors import ArtifactError
from funnelcast.schema import Field, Schema, Step, StepValue
from funnelcast.serving.contract import output_shapes
from funnelcast.serving.scorer import Floats, finish

VALUE = StepValue(mean=12.0, log_mean=2.0, log_std=1.0)
STEPS = (Step(name="a", reach_rate=0.5, transition_rate=0.5), Step(name="b", reach_rate=0.2, transition_rate=0.4))
PLAIN = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=STEPS)
VALUED = PLAIN.model_copy(update={"steps": (STEPS[0], STEPS[1].model_copy(update={"value": VALUE}))})
PATH = Path("model.onnx")


def outputs(**parts: list[float]) -> dict[str, Floats]:
    return {name: np.array(values, np.float32) for name, values in parts.items()}


def test_columns_come_in_the_order_of_the_steps() -> None:
    given = outputs(reach_a=[0.5, 0.6], transition_a=[0.5, 0.6], reach_b=[0.25, 0.3], transition_b=[0.5, 0.7])
    scored = finish(PATH, given, PLAIN, None)
    np.testing.assert_allclose(scored.reach, [[0.5, 0.25], [0.6, 0.3]])
    np.testing.assert_allclose(scored.transition, [[0.5, 0.5], [0.6, 0.7]])
    assert scored.value is None


def test_a_calibration_changes_the_value_with_the_reach() -> None:
    """Log-odds 0 and 0 with a slope of 1 and an intercept of log 3 on the last: c = 1/2, 3/4, p = 1/2, 3/8."""
    calibration = Calibration("joint", ("a", "b"), (StepMap(), StepMap(intercept=float(np.log(3.0)))), {})
    given = outputs(log_mean_value=[np.log(8.0)]) | {
        "log_odds_reach": np.array([[0.0, -1.0]], np.float32),
        "log_odds_transition": np.zeros((1, 2), np.float32),
    }
    scored = finish(PATH, given, VALUED, calibration)
    np.testing.assert_allclose(scored.reach, [[0.5, 0.375]], rtol=1e-6)
    np.testing.assert_allclose(scored.transition, [[0.5, 0.75]], rtol=1e-6)
    assert scored.value is not None
    np.testing.assert_allclose(scored.value, [3.0], rtol=1e-6)


def test_names_say_what_is_not_calibrated() -> None:
    assert [*output_shapes(VALUED, calibrated=False)] == [
        "reach_a", "transition_a", "reach_b", "transition_b", "value_b",
    ]  # fmt: skip
    assert output_shapes(VALUED, calibrated=True) == {
        "raw_reach_a": (), "raw_transition_a": (), "raw_reach_b": (), "raw_transition_b": (), "raw_value_b": (),
        "log_odds_reach": (2,), "log_odds_transition": (2,), "log_mean_value": (),
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_score_that_is_not_finite_names_the_row(wrong: float) -> None:
    given = outputs(reach_a=[0.5, 0.6], transition_a=[0.5, 0.6], reach_b=[0.25, wrong], transition_b=[0.5, 0.7])
    with pytest.raises(ArtifactError, match=r"model.onnx: reach of row 1 should be finite, received"):
        finish(PATH, given, PLAIN, None)


def test_log_odds_that_are_no_numbers_are_an_error() -> None:
    calibration = Calibration("joint", ("a", "b"), (StepMap(), StepMap()), {})
    given = {name: np.full((1, 2), np.nan, np.float32) for name in ("log_odds_reach", "log_odds_transition")}
    with pytest.raises(ArtifactError, match=r"model.onnx: log-odds should be numbers, received NaN"):
        finish(PATH, given, PLAIN, calibration)
