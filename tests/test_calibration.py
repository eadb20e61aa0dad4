"""A calibration applied: hand numbers, a monotone funnel, files that are refused; and its fit has a file of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from funnelcast.calibration import Calibration, LogProbabilities, StepMap
from funnelcast.errors import ArtifactError
from funnelcast.files import json_sha256, write_json

STEPS = ("click", "cart", "buy")
FITTED_ON = {"split": "valid", "rows": 7, "weights_sha256": "abc"}


def logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-np.asarray(p))


def test_joint_by_hand() -> None:
    """Click: odds 1/3 -> logit doubled: odds 1/9, p = 0.1. Buy: u = 0, shifted by log 2 and leaning on logit 0.1."""
    maps = (StepMap(slope=2.0), StepMap(intercept=np.log(2.0), former=-0.5))
    found = Calibration("joint", ("click", "buy"), maps, {}).apply(
        np.zeros((1, 2)), np.array([[logit(0.25), 0.0]])
    )  # the reach is not looked at
    c = 6 / 7  # odds 2 * 9^0.5
    np.testing.assert_allclose(np.exp(found.log_reach), [[0.1, 0.1 * c]])
    np.testing.assert_allclose(np.exp(found.log_transition), [[0.1, c]])
    np.testing.assert_allclose(np.exp(found.log_not_reach), [[0.9, 1 - 0.1 * c]])
    np.testing.assert_allclose(np.exp(found.log_not_transition), [[0.9, 1 - c]])


def test_platt_and_isotonic_by_hand() -> None:
    platt = Calibration("platt", ("click", "buy"), (StepMap(intercept=np.log(3.0)), StepMap(slope=0.5)), {})
    found = platt.apply(logit(np.array([[0.5, 0.1]])), np.zeros((1, 2)))
    np.testing.assert_allclose(np.exp(found.log_reach), [[0.75, 0.25]])  # odds 3; odds 9^-0.5
    np.testing.assert_allclose(np.exp(found.log_transition), [[0.75, 1 / 3]])
    np.testing.assert_allclose(np.exp(found.log_not_transition), [[0.25, 2 / 3]])
    steps = StepMap(log_odds=(-1.0, 1.0), probability=(0.2, 0.6))
    level = Calibration("isotonic", ("click",), (steps,), {}).apply(
        np.array([[-9.0], [0.0], [0.5], [9.0]]), np.zeros((4, 1))
    )
    np.testing.assert_allclose(np.exp(level.log_reach[:, 0]), [0.2, 0.4, 0.5, 0.6])


def test_a_reach_that_rises_is_reported_as_by_a_prediction() -> None:
    found = Calibration("platt", ("a", "b"), (StepMap(), StepMap()), {}).apply(
        np.array([[-1.0, 1.0]]), np.zeros((1, 2))
    )
    np.testing.assert_allclose(found.log_transition[0, 1], -1e-4)
    np.testing.assert_allclose(np.exp(found.log_not_transition[0, 1]), 1e-4, rtol=1e-4)


numbers = arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-120, 120, width=32))
maps = st.builds(
    StepMap, slope=st.floats(1e-3, 1e3), intercept=st.floats(-50, 50), former=st.floats(-3, 3), reason=st.none()
)


def check(found: LogProbabilities) -> None:
    for column in found:
        assert column.dtype == np.float32 and np.isfinite(column).all() and (column <= 0).all()
    np.testing.assert_allclose(
        np.exp(found.log_reach.astype(float)) + np.exp(found.log_not_reach.astype(float)), 1, atol=1e-6
    )


@given(numbers, st.tuples(maps, maps, maps))
def test_a_joint_calibration_never_rises_along_the_funnel(u: Any, three: tuple[StepMap, StepMap, StepMap]) -> None:
    found = Calibration("joint", STEPS, three, {}).apply(np.zeros_like(u), np.clip(u, -12, 12))
    assert (np.diff(found.log_reach, axis=1) <= 0).all()
    sums = np.cumsum(found.log_transition.astype(float), axis=1)
    np.testing.assert_allclose(found.log_reach, sums, rtol=1e-5, atol=1e-5)
    for column in found:
        assert column.dtype == np.float32 and not np.isnan(column).any() and (column <= 0).all()


@given(numbers)
@pytest.mark.parametrize("method", ["joint", "platt", "temperature"])
def test_the_identity_leaves_a_funnel_as_it_is(method: Any, u: Any) -> None:
    from torch import from_numpy

    from funnelcast.prediction import Prediction

    u = np.clip(u, -30, 30)
    before = Prediction.from_transitions(from_numpy(u))
    reach = (before.log_reach - before.log_not_reach).numpy()
    found = Calibration(method, STEPS, (StepMap(),) * 3, {}).apply(reach, u)
    check(found)
    np.testing.assert_allclose(found.log_reach, before.log_reach.numpy(), rtol=1e-4, atol=1e-4)
    capped = np.minimum(before.log_transition.numpy()[:, 1:], 0.0 if method == "joint" else -1e-4)
    np.testing.assert_allclose(found.log_transition[:, 1:], capped, rtol=1e-3, atol=1e-3)


def test_wrong_shapes_and_nan_are_refused() -> None:
    calibration = Calibration("joint", STEPS, (StepMap(),) * 3, {})
    with pytest.raises(ValueError, match=r"reach should be numbers \[N, 3\], received \[2, 2\]"):
        calibration.apply(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="transition should be numbers"):
        calibration.apply(np.zeros((2, 3)), np.full((2, 3), np.nan))


@pytest.mark.parametrize(
    "options",
    [
        {"slope": 0.0},
        {"slope": -1.0},
        {"intercept": float("nan")},
        {"former": float("inf")},
        {"log_odds": (0.0, 0.0), "probability": (0.1, 0.2)},
        {"log_odds": (0.0,), "probability": ()},
        {"log_odds": (0.0, 1.0), "probability": (0.2, 0.1)},
        {"log_odds": (0.0,), "probability": (1.0,)},
    ],
)
def test_a_map_that_orders_rows_otherwise_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="should"):
        StepMap(**options)


EXAMPLES = [
    Calibration("joint", STEPS, (StepMap(1.25, -0.1), StepMap(0.7, 1 / 3, -0.2), StepMap(reason="no rows")), FITTED_ON),
    Calibration("platt", STEPS[:1], (StepMap(0.1, 2.0),), FITTED_ON),
    Calibration("temperature", STEPS[:2], (StepMap(0.5), StepMap(4.0)), FITTED_ON),
    Calibration("isotonic", STEPS[:1], (StepMap(log_odds=(-1.0, 0.3), probability=(0.1, 0.2)),), FITTED_ON),
]


@pytest.mark.parametrize("calibration", EXAMPLES, ids=lambda c: c.method)
def test_a_file_gives_the_same_calibration(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_json(path, calibration.to_json())
    first = path.read_bytes()
    loaded = Calibration.load(path, calibration.steps, "abc")
    assert loaded == calibration
    write_json(path, loaded.to_json())
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["steps"][0]["parameters"].update(slope=1.3), "has changed or is damaged: sha256 should be"),
        (lambda r: r["steps"][0].update(name="view"), "has changed or is damaged"),
        (lambda r: r["fitted_on"].update(rows=8), "has changed or is damaged"),
        (lambda r: r.pop("steps"), "its key 'steps' is missing"),
        (lambda r: r.update(steps=[1, 2]), "received damaged parameters"),
        (lambda r: r.update(steps=3), "received damaged parameters"),
        (lambda r: r.update(format=2), "format should be 1, received 2"),
    ],
)
def test_a_changed_file_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    record = EXAMPLES[0].to_json()
    change(record)
    (tmp_path / "calibration.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=message):
        Calibration.load(tmp_path / "calibration.json", STEPS, "abc")


def test_a_file_of_another_run_or_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_json(path, EXAMPLES[0].to_json())
    with pytest.raises(ArtifactError, match=r"steps should be \['click', 'buy'\], received"):
        Calibration.load(path, ("click", "buy"), "abc")
    with pytest.raises(ArtifactError, match="was fitted for other weights"):
        Calibration.load(path, STEPS, "abd")
    unknown: Any = "spline"
    write_json(path, Calibration(unknown, STEPS[:1], (StepMap(),), FITTED_ON).to_json())
    with pytest.raises(ArtifactError, match="method 'spline' is unknown; known: isotonic, joint"):
        Calibration.load(path, STEPS[:1], "abc")


def test_a_number_beyond_all_doubles_is_refused(tmp_path: Path) -> None:
    record: Any = EXAMPLES[0].to_json()
    record["steps"][0]["parameters"]["slope"] = 10**400
    record["sha256"] = json_sha256({key: record[key] for key in ("method", "fitted_on", "steps")})
    (tmp_path / "calibration.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="received damaged parameters"):
        Calibration.load(tmp_path / "calibration.json", EXAMPLES[0].steps, "abc")
