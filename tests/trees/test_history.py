from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funnelcast.trees._history import POINTS, StepFit, history


def fit(*losses: float, entropy: float = 0.5) -> StepFit:
    return StepFit("click", losses, entropy, 2.0)


def test_kept_trees_by_hand() -> None:
    grown = fit(0.5, 0.4, 0.45, 0.3, 0.3, 0.6)
    assert grown.best_round == 4  # the first of two equal ones
    assert [grown.kept(rounds) for rounds in (1, 2, 3, 4, 9)] == [1.0, 0.8, 0.8, 0.6, 0.6]
    assert fit(0.5, 0.4, entropy=0.0).kept(2) is None


def test_the_best_epoch_is_where_the_last_step_is_at_its_best() -> None:
    record = history([fit(0.4, 0.5, 0.6), fit(0.9, 0.8, 0.7, 0.6, 0.65, entropy=1.0)], 10, 4.5)
    assert [point["step"] for point in record["epochs"]] == [1, 2, 3, 4, 5]
    assert [point["valid_mean_ne"] for point in record["epochs"]] == pytest.approx([0.85, 0.8, 0.75, 0.7, 0.7])
    assert [point["best"] for point in record["epochs"]] == [True, True, True, True, False]
    assert (record["best_epoch"], record["rows"], record["train_seconds"]) == (4, 10, 4.5)
    assert record["boosters"][0] == {
        **{"step": "click", "best_round": 1, "seconds": 2.0},
        "valid_logloss": [0.4, 0.5, 0.6],
    }


def test_valid_of_one_class_everywhere_has_no_entropy() -> None:
    record = history([fit(0.1, entropy=0.0)], 10, 1.0)
    assert record["epochs"][0]["valid_mean_ne"] is None and not record["epochs"][0]["best"]


@given(st.lists(st.lists(st.floats(0.01, 2), min_size=1, max_size=130), min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30, deadline=None)
def test_the_curve_falls_to_what_is_kept(losses: list[list[float]]) -> None:
    fits = [fit(*curve) for curve in losses]
    record = history(fits, 1, 1.0)
    curve = [point["valid_mean_ne"] for point in record["epochs"]]
    assert curve == sorted(curve, reverse=True)
    assert len(curve) <= POINTS + len(fits)
    (best,) = [point for point in record["epochs"] if point["epoch"] == record["best_epoch"]]
    assert best["valid_ne"] == [min(grown.losses) / 0.5 for grown in fits]
